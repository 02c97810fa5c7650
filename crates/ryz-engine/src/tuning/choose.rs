//! Which packing and which distance are taken, and up to where rows are listed.

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
    // The first product finds what came before it in the caches.
    let medians = medians(DISTANCES.len(), 1, |index| time(DISTANCES[index]))?;
    let Some(of_default) = medians[0] else {
        return Ok(DISTANCES[0]);
    };
    let best = (0..DISTANCES.len()).min_by_key(|&index| medians[index]);
    let better = best.filter(|&index| {
        medians[index].is_some_and(|median| median < of_default - of_default / MARGIN)
    });
    Ok(DISTANCES[better.unwrap_or(0)])
}

/// Times `kinds` kinds of matrices in both packings, with each number of `tokens`, as long as `time` answers, and gives the packing
/// of each: 1.6 bits where the medians of all numbers, each over that of 2 bits, add up to less. Kinds and packings take turns, so
/// that each finds the caches full of the others.
///
/// # Errors
/// Those of `time`.
pub(super) fn packings<E>(
    kinds: usize,
    tokens: &[usize],
    mut time: impl FnMut(usize, Packing, usize) -> Result<Option<Duration>, E>,
) -> Result<Vec<Packing>, E> {
    let ways = Packing::ALL.len() * kinds;
    let count = tokens.len() * ways;
    // (tokens, packing, kind); the first round finds in the caches what was just packed.
    let medians = medians(count, count, |way| {
        let packing = Packing::ALL[way % ways / kinds];
        time(way % kinds, packing, tokens[way / ways])
    })?;
    let least = tokens.len() as f64 * (1.0 - 1.0 / f64::from(MARGIN));
    let choices = (0..kinds).map(|kind| {
        let ratios = medians.chunks_exact(ways.max(1)).map(|of_case| {
            let [two_bits, base3] = [of_case[kind], of_case[kinds + kind]];
            Some(base3?.as_secs_f64() / two_bits?.as_secs_f64())
        });
        match ratios.sum::<Option<f64>>() {
            Some(sum) if sum < least => Packing::Base3,
            _ => Packing::TwoBits,
        }
    });
    Ok(choices.collect())
}

/// Times a product with all rows, by a list of them (`true`) and without, as long as `time` answers, and gives the share of rows up
/// to which a list is faster: its time is taken to be in proportion to its length.
///
/// # Errors
/// Those of `time`.
pub(super) fn listed_share<E>(
    mut time: impl FnMut(bool) -> Result<Option<Duration>, E>,
) -> Result<f32, E> {
    // The first round finds in the caches what came before it.
    let medians = medians(2, 2, |way| time(way == 1))?;
    let (whole, listed) = (medians[0], medians[1]);
    Ok(match (whole, listed) {
        (Some(whole), Some(listed)) if whole < listed - listed / MARGIN => {
            (whole.as_secs_f64() / listed.as_secs_f64()) as f32
        }
        _ => 1.0,
    })
}

/// The median time of each of `count` ways, which take turns as long as `time` answers: turns make what else the machine does
/// fall on all of them alike. The first `warm_up` are tried once before, and that does not count; nor does a round that is not whole.
fn medians<E>(
    count: usize,
    warm_up: usize,
    mut time: impl FnMut(usize) -> Result<Option<Duration>, E>,
) -> Result<Vec<Option<Duration>>, E> {
    let mut times = vec![Vec::new(); count];
    let mut round = |ways| {
        (0..ways)
            .map(&mut time)
            .collect::<Result<Option<Vec<_>>, E>>()
    };
    let mut answered = round(warm_up)?.is_some();
    let mut rounds = 0..ROUNDS;
    while answered && rounds.next().is_some() {
        let measured = round(count)?;
        answered = measured.is_some();
        for (times, time) in times.iter_mut().zip(measured.unwrap_or_default()) {
            times.push(time);
        }
    }
    Ok(times.into_iter().map(median).collect())
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
        let Ok(answer) = packings::<Infallible>(2, &[1], |kind, packing, _| {
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
        assert_eq!(
            packings::<Infallible>(0, &[1, 8], |_, _, _| Ok(None)),
            Ok(Vec::new())
        );
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

    /// What one token gains, several may lose.
    #[test]
    fn every_number_of_tokens_counts_alike() {
        let of_several = |nanos: u64| {
            let choice = packings::<Infallible>(1, &[1, 8], |_, packing, tokens| {
                Ok(Some(Duration::from_nanos(match (packing, tokens) {
                    (Packing::TwoBits, 1) => 1000,
                    (Packing::TwoBits, _) => 4000,
                    (Packing::Base3, 1) => 900,
                    (Packing::Base3, _) => nanos,
                })))
            });
            choice.map(|choices| choices[0])
        };
        assert_eq!(of_several(4000), Ok(Packing::Base3));
        assert_eq!(of_several(4200), Ok(Packing::Base3));
        assert_eq!(of_several(4300), Ok(Packing::TwoBits));
        assert_eq!(of_several(5000), Ok(Packing::TwoBits));
    }

    #[test]
    fn a_list_is_made_while_it_is_faster() {
        let share = |whole: u64, listed: u64| {
            listed_share::<Infallible>(|list| {
                let nanos = if list { listed } else { whole };
                Ok(Some(Duration::from_nanos(nanos)))
            })
        };
        assert_eq!(share(800, 1000), Ok(0.8));
        assert_eq!(share(990, 1000), Ok(1.0)); // hardly
        assert_eq!(share(1000, 800), Ok(1.0));
        assert_eq!(listed_share::<Infallible>(|_| Ok(None)), Ok(1.0));
        let mut asked = 0;
        let once = listed_share::<Infallible>(|list| {
            asked += 1;
            let nanos = if list { 1000 } else { 1 };
            Ok((asked <= 3).then_some(Duration::from_nanos(nanos)))
        });
        assert_eq!(once, Ok(1.0));
    }

    #[test]
    fn errors_come_through() {
        assert_eq!(distance(|_| Err("worker")), Err("worker"));
        assert_eq!(listed_share(|_| Err("worker")), Err("worker"));
        assert_eq!(packings(1, &[1], |_, _, _| Err("worker")), Err("worker"));
    }
}
