//! Measures how fast this machine can read memory: the roofline that `bench` sets its results against.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use ryz_numa::{Lease, Poisoned, RegionError, Worker};

/// Bytes read a second, best of `passes` passes of the lease's threads over `bytes` bytes in all.
///
/// Each thread fills its own share first, so that the pages are there and on its own memory node; then all start each
/// pass together and sum 64-bit words. A pass lasts as long as its slowest thread. `None` when there is not enough memory.
///
/// # Errors
/// As [`Lease::run`].
pub fn read_bandwidth(
    bytes: usize,
    lease: &Lease,
    passes: usize,
) -> Result<Option<f64>, RegionError> {
    let threads = lease.threads();
    let words = (bytes / 8 / threads).max(1);
    let per_thread = Mutex::new(Vec::with_capacity(threads));
    lease.run(|worker| {
        if let Ok(times) = time_passes(words, passes, worker) {
            let mut all = per_thread.lock().unwrap_or_else(PoisonError::into_inner);
            all.push(times);
        }
    })?;
    let per_thread = per_thread.into_inner();
    let per_thread = per_thread.unwrap_or_else(PoisonError::into_inner);
    // A thread without memory stopped all.
    if per_thread.len() < threads {
        return Ok(None);
    }
    let best = (0..passes)
        .map(|pass| {
            let times = per_thread.iter().map(|times| times[pass]);
            times.fold(0.0, f64::max)
        })
        .fold(f64::INFINITY, f64::min);
    Ok(Some((words * 8 * threads) as f64 / best))
}

/// Seconds that each pass over `words` words took on this thread.
fn time_passes(words: usize, passes: usize, worker: &Worker<'_>) -> Result<Vec<f64>, Poisoned> {
    let mut buffer: Vec<u64> = Vec::new();
    if buffer.try_reserve_exact(words).is_err() {
        worker.stop();
        return Err(Poisoned);
    }
    let seed = worker.index() as u64;
    buffer.extend((0..words as u64).map(|word| word ^ seed));
    let mut times = Vec::with_capacity(passes);
    for _ in 0..passes {
        worker.barrier()?;
        let start = Instant::now();
        std::hint::black_box(sum(std::hint::black_box(&buffer)));
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(times)
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
    use ryz_numa::Pinning;

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
            let lease = Lease::new(threads, Pinning::Cores).expect("threads");
            let rate = read_bandwidth(1 << 20, &lease, 2)
                .expect("a region")
                .expect("memory");
            assert!(rate.is_finite() && rate > 0.0, "{rate}");
        }
    }
}
