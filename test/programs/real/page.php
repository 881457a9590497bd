<?php
$n = (int)($_GET['n'] ?? 1);
$all = [];
for ($i = 0; $i < 20000; $i++) $all["key $i"] = ['id' => $i * $n, 'text' => str_repeat(chr(97 + $i % 26), $i % 50)];
echo hash('sha256', serialize($all)), " $n\n";
