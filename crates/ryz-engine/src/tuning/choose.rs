//! Which packing and which distance are taken.

use std::time::Duration;

use ryz_kernels::Packing;
use ryz_tmac::PrefetchManager;

/// Distances that are tried, in cache lines; the default is the first.
const DISTANCES: [usize; 6] = [PrefetchManager::DEFAULT_LINES, 0, 16, 32, 128, 256];
/// Rounds over all that is tried, at the most.
const ROUNDS: usize = 9;
/// How much less time than the default another distance or packing must take: 1 / 50, more than noise makes of nothing.
const MARGIN: u32 = 50;

/// Times all distances by turns, as long as `time` answers, and gives the one of the least median. Turns make what else
/// the machine does fall on all of them alike.
///
/// # Errors
/// Those of `time`.
pub(super) fn distance<E>(
    mut time: impl FnMut(usize) -> Result<Option<Duration>, E>,
) -> Result<usize, E> {
    let mut times: [Vec<Duration>; DISTANCES.len()] = Default::default();
    // The first product finds what came before it in the caches.
    if time(DISTANCES[0])?.is_none() {
        return Ok(DISTANCES[0]);
    }
    'rounds: for _ in 0..ROUNDS {
        let mut round = [Duration::ZERO; DISTANCES.len()];
        for (distance, time_of) in DISTANCES.into_iter().zip(&mut round) {
            match time(distance)? {
                Some(measured) => *time_of = measured,
                None => break 'rounds, // only whole rounds count
            }
        }
        for (times, time_of) in times.iter_mut().zip(round) {
            times.push(time_of);
        }
    }
    let medians = times.map(median);
    let Some(of_default) = medians[0] else {
        return Ok(DISTANCES[0]);
    };
    let best = (0..DISTANCES.len()).min_by_key(|&index| medians[index]);
    let better = best.filter(|&index| {
        medians[index].is_some_and(|median| median < of_default - of_default / MARGIN)
    });
    Ok(DISTANCES[better.unwrap_or(0)])
}

/// Times `kinds` kinds of matrices in both packings, as long as `time` answers, and gives the packing of each: 1.6 bits where
/// their median is less. Kinds and packings take turns, so that each finds the caches full of the others.
///
/// # Errors
/// Those of `time`.
pub(super) fn packings<E>(
    kinds: usize,
    mut time: impl FnMut(usize, Packing) -> Result<Option<Duration>, E>,
) -> Result<Vec<Packing>, E> {
    let mut times = vec![[Vec::new(), Vec::new()]; kinds];
    // The first round finds in the caches what was just packed.
    'rounds: for round in 0..=ROUNDS {
        let mut of_round = vec![[Duration::ZERO; 2]; kinds];
        for (place, packing) in Packing::ALL.into_iter().enumerate() {
            for (kind, of_kind) in of_round.iter_mut().enumerate() {
                match time(kind, packing)? {
                    Some(measured) => of_kind[place] = measured,
                    None => break 'rounds, // only whole rounds count
                }
            }
        }
        if round > 0 {
            for (times, of_kind) in times.iter_mut().zip(of_round) {
                for (times, time) in times.iter_mut().zip(of_kind) {
                    times.push(time);
                }
            }
        }
    }
    let choices = times.into_iter().map(|times| {
        let [two_bits, base3] = times.map(median);
        match (two_bits, base3) {
            (Some(two_bits), Some(base3)) if base3 < two_bits - two_bits / MARGIN => Packing::Base3,
            _ => Packing::TwoBits,
        }
    });
    Ok(choices.collect())
}

fn median(mut times: Vec<Duration>) -> Option<Duration> {
    times.sort_unstable();
    times.get(times.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// What is chosen where a product takes `nanos(distance, turn)`, and how many were asked for.
    fn chosen(most: usize, nanos: impl Fn(usize, usize) -> u64) -> (usize, usize) {
        let mut asked = 0;
        let answer = distance::<Infallible>(|distance| {
            asked += 1;
            let time = Duration::from_nanos(nanos(distance, asked));
            Ok((asked <= most).then_some(time))
        });
        let Ok(answer) = answer;
        (answer, asked)
    }

    #[test]
    fn the_fastest_is_chosen() {
        for fastest in DISTANCES {
            let (answer, asked) = chosen(
                usize::MAX,
                |distance, _| {
                    if distance == fastest { 900 } else { 1000 }
                },
            );
            assert_eq!(answer, fastest);
            assert_eq!(asked, 1 + ROUNDS * DISTANCES.len());
        }
    }

    #[test]
    fn what_is_hardly_faster_is_not() {
        let nearly = |distance: usize, _| if distance == 16 { 985 } else { 1000 };
        assert_eq!(chosen(usize::MAX, nearly).0, DISTANCES[0]);
    }

    /// One interruption in a round moves no median.
    #[test]
    fn noise_decides_nothing() {
        let noisy = |distance: usize, turn: usize| {
            let base = if distance == 32 { 900 } else { 1000 };
            base * if turn.is_multiple_of(5) { 20 } else { 1 }
        };
        assert_eq!(chosen(usize::MAX, noisy).0, 32);
    }

    #[test]
    fn without_a_whole_round_it_is_the_default() {
        let zero_is_fast = |distance: usize, _| if distance == 0 { 1 } else { 1000 };
        for most in 0..=DISTANCES.len() {
            assert_eq!(chosen(most, zero_is_fast).0, DISTANCES[0]);
        }
        assert_eq!(chosen(DISTANCES.len() + 1, zero_is_fast).0, 0);
    }

    /// What two kinds take where a product takes `nanos(kind, packing, turn)`, if `most` are measured.
    fn packed(most: usize, nanos: impl Fn(usize, Packing, usize) -> u64) -> Vec<Packing> {
        let mut asked = 0;
        let Ok(answer) = packings::<Infallible>(2, |kind, packing| {
            asked += 1;
            let time = Duration::from_nanos(nanos(kind, packing, asked));
            Ok((asked <= most).then_some(time))
        });
        answer
    }

    #[test]
    fn each_kind_takes_the_packing_that_is_faster() {
        let second_in_base3 = |kind: usize, packing: Packing, turn: usize| {
            let base = match (kind, packing) {
                (1, Packing::Base3) => 900,
                (0, Packing::Base3) => 985, // hardly
                _ => 1000,
            };
            base * if turn.is_multiple_of(7) { 20 } else { 1 }
        };
        let all = usize::MAX;
        assert_eq!(
            packed(all, second_in_base3),
            [Packing::TwoBits, Packing::Base3]
        );
        assert_eq!(packings::<Infallible>(0, |_, _| Ok(None)), Ok(Vec::new()));
    }

    /// A round is four products; the first does not count.
    #[test]
    fn without_a_whole_round_two_bits_stay() {
        let base3_is_fast = |_, packing, _| match packing {
            Packing::TwoBits => 1000,
            Packing::Base3 => 1,
        };
        for most in 0..8 {
            assert_eq!(packed(most, base3_is_fast), [Packing::TwoBits; 2], "{most}");
        }
        assert_eq!(packed(8, base3_is_fast), [Packing::Base3; 2]);
    }

    #[test]
    fn errors_come_through() {
        assert_eq!(distance(|_| Err("worker")), Err("worker"));
        assert_eq!(packings(1, |_, _| Err("worker")), Err("worker"));
    }
}
