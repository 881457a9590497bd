// Objects, strings and buffers, made, dropped and kept; answers to each line with a hash of what is kept.
const crypto = require('crypto');
const readline = require('readline');
let kept = [], turn = 0;
function load(n) {
    const all = [];
    for (let i = 0; i < n; i++) all.push({id: i, name: 'item ' + i, values: [i, i * 2, i * 3], text: 'x'.repeat(i % 100)});
    return all;
}
function digest() { return crypto.createHash('sha256').update(JSON.stringify(kept)).digest('hex'); }
kept.push(load(150000), Buffer.alloc(32 << 20, 'abcdefgh').toString('latin1'));
console.log(digest());
readline.createInterface({input: process.stdin}).on('line', () => {
    for (let k = 0; k < 5; k++) load(50000);
    kept[0] = load(100000 + turn++);
    console.log(digest());
    if (turn == 3) process.exit(0);
});
