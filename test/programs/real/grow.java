// A heap that grows, is dropped and grows again; prints a number that depends on all that it held.
import java.util.*;

public class grow {
    public static void main(String[] words) throws Exception {
        int rounds = Integer.parseInt(words[0]);
        List<int[]> kept = new ArrayList<>();
        Random random = new Random(7);
        long sum = 0;
        for (int round = 0; round < rounds; round++) {
            for (int i = 0; i < 60; i++) {
                int[] a = new int[1 << 18];
                for (int k = 0; k < a.length; k++)
                    a[k] = k * 31 + i % 10;
                kept.add(a);
            }
            Map<String, String> map = new HashMap<>();
            for (int i = 0; i < 50000; i++)
                map.put("key " + i, "value " + random.nextInt());
            sum = sum * 31 + map.hashCode();
            Thread.sleep(300);
            for (int[] a : kept)
                for (int v : a)
                    sum = sum * 31 + v;
            if (round % 2 == 1) {
                kept.subList(0, kept.size() * 3 / 4).clear();
                System.gc();
            }
        }
        System.out.println(sum);
    }
}
