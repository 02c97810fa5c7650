//! Which packing and which distance are taken, and up to where rows are listed and orders kept.

use std::time::Duration;

use ryz_kernels::Packing;
use ryz_model::Counting;
use ryz_tmac::PrefetchManager;

/// Distances that are tried, in cache lines; the default is the first.
const DISTANCES: [usize; 6] = [PrefetchManager::DEFAULT_LINES, 0, 16, 32, 128, 256];
/// Rounds over all that is tried, at the most.
const ROUNDS: usize = 9;
/// Of which something is computed that magnifies noise.
const MANY_ROUNDS: usize = 25;
/// How much less time than the default another distance, packing or way must take: 1 / 50, more than noise makes of nothing.
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

/// A way to multiply one token with matrices whose rows or columns can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SparseMethod {
    /// In its order, with everything counting or half of it: by a list, in rows.
    Order(Counting),
    /// In rows: all of them, without a list.
    WithoutList,
    /// Everything, in tiles.
    Tiles,
}

/// Up to which shares of what counts one way is faster than another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Shares {
    /// A list of rows than all rows.
    pub listed: f32,
    /// The order than tiles.
    pub order: f32,
}

/// Times the ways of `ways` by turns, as long as `time` answers: both shares are 1 where nothing was found to be slower. A product's
/// time is taken to grow by as much for each row or column that counts. In rows, times are those of the gate's rows as well, which
/// lie in tiles and are as many.
///
/// # Errors
/// Those of `time`.
pub(super) fn shares<E>(
    ways: &[SparseMethod],
    mut time: impl FnMut(SparseMethod) -> Result<Option<Duration>, E>,
) -> Result<Shares, E> {
    // The first round finds in the caches what came before it.
    let times = by_turns(MANY_ROUNDS, ways.len(), ways.len(), |way| time(ways[way]))?;
    let times_of = |wanted: SparseMethod| {
        ways.iter()
            .position(|&way| way == wanted)
            .map(|way| &times[way])
    };
    // Over that of everything in the same round: memory is slower at one time than at another.
    let of = |wanted: SparseMethod| {
        let rounds = times_of(wanted)?
            .iter()
            .zip(times_of(SparseMethod::Order(Counting::All))?);
        let mut ratios: Vec<f64> = rounds
            .map(|(time, all)| time.as_secs_f64() / all.as_secs_f64())
            .collect();
        ratios.sort_unstable_by(f64::total_cmp);
        ratios.get(ratios.len() / 2).copied()
    };
    let (without_list, tiles) = (of(SparseMethod::WithoutList), of(SparseMethod::Tiles));
    let gate = match (without_list, tiles) {
        (Some(_), Some(tiles)) => tiles / 2.0,
        _ => 0.0,
    };
    let up_to = |other: Option<f64>| match (of(SparseMethod::Order(Counting::Half)), other) {
        (Some(half), Some(other)) if is_less(other, 1.0) => {
            let all = 1.0 - gate;
            crossing((half - gate) / all, (other - gate) / all)
        }
        _ => 1.0,
    };
    let order = match (without_list, tiles) {
        // All rows without a list are as fast: what is lost where none can be left out is nothing.
        (Some(whole), Some(tiles)) if !is_less(tiles, whole) => 1.0,
        _ => up_to(tiles),
    };
    Ok(Shares {
        listed: up_to(without_list),
        order,
    })
}

/// Whether a time is less than another by more than noise makes of nothing.
fn is_less(time: f64, other: f64) -> bool {
    time < other * (1.0 - 1.0 / f64::from(MARGIN))
}

/// What half of the lines takes of the time that all of them take: outside of this it is noise, which would put a crossing anywhere.
const OF_HALF: [f64; 2] = [0.5, 0.75];
/// No crossing below this is believed: the less counts, the more is lost where it is read nonetheless.
const LEAST_SHARE: f64 = 0.25;

/// Where the line through `half` at a share of a half and 1 at 1 meets `other`.
fn crossing(half: f64, other: f64) -> f32 {
    let half = half.clamp(OF_HALF[0], OF_HALF[1]);
    (0.5 + 0.5 * (other - half) / (1.0 - half)).clamp(LEAST_SHARE, 1.0) as f32
}

/// The median time of each way of [`by_turns`].
fn medians<E>(
    count: usize,
    warm_up: usize,
    time: impl FnMut(usize) -> Result<Option<Duration>, E>,
) -> Result<Vec<Option<Duration>>, E> {
    let times = by_turns(ROUNDS, count, warm_up, time)?;
    Ok(times.into_iter().map(median).collect())
}

/// The times of each of `count` ways, which take `most` turns, as long as `time` answers: turns make what else the machine does
/// fall on all of them alike. The first `warm_up` are tried once before, and that does not count; nor does a round that is not whole.
fn by_turns<E>(
    most: usize,
    count: usize,
    warm_up: usize,
    mut time: impl FnMut(usize) -> Result<Option<Duration>, E>,
) -> Result<Vec<Vec<Duration>>, E> {
    let mut times = vec![Vec::new(); count];
    let mut round = |ways| {
        (0..ways)
            .map(&mut time)
            .collect::<Result<Option<Vec<_>>, E>>()
    };
    let mut answered = round(warm_up)?.is_some();
    let mut rounds = 0..most;
    while answered && rounds.next().is_some() {
        let measured = round(count)?;
        answered = measured.is_some();
        for (times, time) in times.iter_mut().zip(measured.unwrap_or_default()) {
            times.push(time);
        }
    }
    Ok(times)
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

    const ALL_WAYS: [SparseMethod; 4] = [
        SparseMethod::Order(Counting::Half),
        SparseMethod::Order(Counting::All),
        SparseMethod::WithoutList,
        SparseMethod::Tiles,
    ];

    /// The shares where the ways take so long, of columns where there is no time for all rows without a list, and otherwise of rows
    /// behind a gate that takes as long as tiles; each round is slower than the one before.
    fn shares_of(half: u64, all: u64, without_list: Option<u64>, tiles: u64) -> [f32; 2] {
        let gate = without_list.map_or(0, |_| tiles);
        let ways = ALL_WAYS.into_iter();
        let ways: Vec<SparseMethod> = ways
            .filter(|&way| way != SparseMethod::WithoutList || without_list.is_some())
            .collect();
        let mut asked = 0;
        let Ok(shares) = shares::<Infallible>(&ways, |way| {
            let nanos = match way {
                SparseMethod::Order(Counting::Half) => half,
                SparseMethod::Order(Counting::All) => all,
                SparseMethod::WithoutList => without_list.unwrap_or_default(),
                SparseMethod::Tiles => tiles,
            };
            asked += 1;
            let round = 1 + (asked - 1) / ways.len() as u64;
            Ok(Some(Duration::from_nanos((gate + nanos) * round)))
        });
        [shares.listed, shares.order].map(|share| (share * 100.0).round() / 100.0)
    }

    #[test]
    fn a_list_is_made_while_it_is_faster() {
        assert_eq!(shares_of(500, 1000, Some(800), 800), [0.8, 1.0]);
        assert_eq!(shares_of(600, 1000, Some(800), 800), [0.75, 1.0]);
        assert_eq!(shares_of(700, 1000, Some(600), 600), [0.33, 1.0]);
        assert_eq!(shares_of(500, 1000, Some(990), 990), [1.0, 1.0]); // hardly
        assert_eq!(shares_of(500, 1000, Some(1100), 1100), [1.0, 1.0]);
    }

    #[test]
    fn the_order_is_kept_while_it_is_faster_than_tiles() {
        assert_eq!(shares_of(800, 1300, None, 1000), [1.0, 0.7]);
        assert_eq!(shares_of(800, 1300, Some(1300), 1000), [1.0, 0.7]);
        // The list, which is not made there, is of no account.
        assert_eq!(shares_of(800, 1300, Some(1000), 1000), [0.7, 1.0]);
        assert_eq!(shares_of(800, 1300, Some(1100), 1000), [0.8, 0.7]);
    }

    /// Half takes half of the time at least, and never as much as all.
    #[test]
    fn noise_puts_no_share_anywhere() {
        assert_eq!(shares_of(1100, 1000, None, 950), [1.0, 0.9]);
        assert_eq!(shares_of(100, 1000, None, 600), [1.0, 0.6]);
        assert_eq!(shares_of(700, 1000, None, 100), [1.0, 0.25]);
    }

    /// Columns have no list, and one matrix alone is not compared with tiles.
    #[test]
    fn what_is_not_measured_decides_nothing() {
        let [half, all, without_list, _] = ALL_WAYS;
        let alone = shares::<Infallible>(&[half, all, without_list], |way| {
            Ok(Some(Duration::from_nanos(match way {
                SparseMethod::Order(Counting::Half) => 800,
                SparseMethod::Order(Counting::All) => 1600,
                SparseMethod::WithoutList | SparseMethod::Tiles => 1200,
            })))
        });
        let shares_of = |listed, order| Ok(Shares { listed, order });
        assert_eq!(alone, shares_of(0.75, 1.0));
        let nothing = shares::<Infallible>(&ALL_WAYS, |_| Ok(None));
        assert_eq!(nothing, shares_of(1.0, 1.0));
    }

    #[test]
    fn errors_come_through() {
        assert_eq!(distance(|_| Err("worker")), Err("worker"));
        assert_eq!(shares(&ALL_WAYS, |_| Err("worker")), Err("worker"));
        assert_eq!(packings(1, &[1], |_, _, _| Err("worker")), Err("worker"));
    }
}
