//! Measures how fast this machine can read memory: the roofline that `bench` sets its results against.

use std::sync::Barrier;
use std::time::Instant;

/// Bytes read a second, best of `passes` passes of `threads` threads over `bytes` bytes in all.
///
/// Each thread fills its own share first, so that the pages are there and on its own memory node; then all start each
/// pass together and sum 64-bit words. A pass lasts as long as its slowest thread. `None` when there is not enough memory.
pub fn read_bandwidth(bytes: usize, threads: usize, passes: usize) -> Option<f64> {
    let words = (bytes / 8 / threads.max(1)).max(1);
    let barrier = Barrier::new(threads);
    let per_thread: Vec<Option<Vec<f64>>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads)
            .map(|thread| {
                let barrier = &barrier;
                scope.spawn(move || time_passes(words, thread as u64, passes, barrier))
            })
            .collect();
        handles
            .into_iter()
            .map(|handle| handle.join().ok().flatten())
            .collect()
    });
    let per_thread: Vec<Vec<f64>> = per_thread.into_iter().collect::<Option<_>>()?;
    let best = (0..passes)
        .map(|pass| {
            per_thread
                .iter()
                .map(|times| times[pass])
                .fold(0.0, f64::max)
        })
        .fold(f64::INFINITY, f64::min);
    Some((words * 8 * threads) as f64 / best)
}

/// Seconds that each pass over `words` words took on this thread.
fn time_passes(words: usize, seed: u64, passes: usize, barrier: &Barrier) -> Option<Vec<f64>> {
    let mut buffer: Vec<u64> = Vec::new();
    let reserved = buffer.try_reserve_exact(words).is_ok();
    if reserved {
        buffer.extend((0..words as u64).map(|word| word ^ seed));
    }
    let mut times = Vec::with_capacity(passes);
    for _ in 0..passes {
        barrier.wait();
        let start = Instant::now();
        std::hint::black_box(sum(std::hint::black_box(&buffer)));
        times.push(start.elapsed().as_secs_f64());
    }
    reserved.then_some(times)
}

/// The wrapping sum of all words, in eight independent chains so that memory is the limit.
fn sum(words: &[u64]) -> u64 {
    let (lines, rest) = words.as_chunks::<8>();
    let mut sums = [0_u64; 8];
    for line in lines {
        for (sum, word) in sums.iter_mut().zip(line) {
            *sum = sum.wrapping_add(*word);
        }
    }
    sums.iter()
        .chain(rest)
        .fold(0, |total, word| total.wrapping_add(*word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_counts_every_word_also_a_ragged_end() {
        for len in [0_u64, 1, 7, 8, 9, 1000] {
            let words: Vec<u64> = (1..=len).collect();
            assert_eq!(sum(&words), len * (len + 1) / 2);
        }
    }

    #[test]
    fn measures_a_positive_rate_with_any_number_of_threads() {
        for threads in 1..=3 {
            let rate = read_bandwidth(1 << 20, threads, 2).expect("memory");
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
