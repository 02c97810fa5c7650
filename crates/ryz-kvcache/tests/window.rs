//! Attention through a window, against its definition: an explicit mask, and keys and queries turned to explicit positions.
#![allow(clippy::unwrap_used)] // helpers of tests, too

use ryz_kernels::{Kernels, Level};
use ryz_kvcache::{
    AttentionMass, BLOCK_TOKENS, BlockId, BlockPool, KvCache, KvCacheConfig, KvDType, StepRows,
    VisibleContext, Window,
};
use ryz_tmac::{Arena, ArenaConfig};

const DIM: usize = 8;
const POSITIONS: usize = 150;
const SCALE: f32 = 0.4;

/// Numbers that repeat nowhere.
fn noise(seed: usize, index: usize) -> f64 {
    let x = (seed * 7919 + index * 104_729) % 10_007;
    x as f64 / 5003.5 - 1.0
}

fn vector(seed: usize, position: usize) -> Vec<f64> {
    (0..DIM)
        .map(|column| noise(seed + column, position))
        .collect()
}

/// A vector as it is at a position: pairs of neighbours turned.
fn turned(vector: &[f64], position: usize) -> Vec<f64> {
    let pairs = vector.chunks(2).enumerate().flat_map(|(pair, values)| {
        let angle = position as f64 * 100f64.powf(-2.0 * pair as f64 / DIM as f64);
        let (sin, cos) = angle.sin_cos();
        [
            values[0] * cos - values[1] * sin,
            values[0] * sin + values[1] * cos,
        ]
    });
    pairs.collect()
}

fn floats(vector: &[f64]) -> Vec<f32> {
    vector.iter().map(|&x| x as f32).collect()
}

/// A cache of `POSITIONS` positions whose keys are turned to where they are.
fn filled() -> (KvCache, Vec<BlockId>) {
    let config = KvCacheConfig {
        layers: 1,
        kv_heads: 1,
        key_dim: DIM,
        value_dim: DIM,
        dtype: KvDType::F32,
        blocks: POSITIONS.div_ceil(BLOCK_TOKENS),
        tails: 1,
    };
    let cache = KvCache::new(&Arena::new(ArenaConfig::default()), config).unwrap();
    let mut pool = BlockPool::new(config.blocks);
    let table: Vec<_> = std::iter::from_fn(|| pool.allocate()).collect();
    let kernels = Kernels::new(Level::detect()).unwrap();
    for (index, &block) in table.iter().enumerate() {
        let rows: Vec<_> = (index * BLOCK_TOKENS..(index + 1) * BLOCK_TOKENS)
            .map(|position| {
                let key = turned(&vector(1, position), position);
                (floats(&key), floats(&vector(50, position)))
            })
            .collect();
        let mut writer = cache.writer(block, 0..BLOCK_TOKENS);
        writer.write(kernels, 0, 0, |slot| (&rows[slot].0, &rows[slot].1));
    }
    (cache, table)
}

/// `softmax(scale · q·k) · v` over some positions in double precision: the query and each key turned to positions of their own.
fn defined(query: (usize, usize), keys: impl Iterator<Item = (usize, usize)>) -> Vec<f64> {
    let query = turned(&vector(90, query.0), query.1);
    let mut sums = vec![0.0; DIM];
    let mut total = 0.0;
    for (position, at) in keys {
        let key = turned(&vector(1, position), at);
        let dot: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
        let weight = (dot * f64::from(SCALE)).exp();
        total += weight;
        let value = vector(50, position);
        sums.iter_mut()
            .zip(value)
            .for_each(|(sum, v)| *sum += weight * v);
    }
    sums.into_iter().map(|sum| sum / total).collect()
}

fn attended(
    cache: &KvCache,
    table: &[BlockId],
    position: usize,
    window: Option<Window>,
) -> Vec<f32> {
    let kernels = Kernels::new(Level::detect()).unwrap();
    let query = vector(90, position);
    let shift = window.map_or(0, |window| window.shift(position));
    let back = floats(&turned(&query, position - shift));
    let mut out = vec![0.0; DIM];
    let visible = VisibleContext {
        table,
        positions: position + 1,
        window,
        sink_queries: (shift > 0).then_some(&back),
        mass: None,
    };
    let new = StepRows {
        start: 0,
        keys: &[],
        key_stride: DIM,
        values: &[],
        value_stride: DIM,
    };
    let query = floats(&turned(&query, position));
    cache
        .reader()
        .attend(kernels, 0, 0, visible, new, &query, SCALE, &mut out);
    out
}

/// What a query sees, by the rule's words: the first blocks, and those with a position in the window.
fn mask(sinks: usize, window: usize, position: usize) -> Vec<usize> {
    let block_of = |position: usize| position / BLOCK_TOKENS;
    let oldest = (position + 1).saturating_sub(window);
    let kept = |other: &usize| {
        let is_sink = sinks > 0 && block_of(*other) <= block_of(sinks - 1);
        is_sink || block_of(*other) >= block_of(oldest)
    };
    (0..=position).filter(kept).collect()
}

fn assert_close(got: &[f32], expected: &[f64], what: &str) {
    for (got, expected) in got.iter().zip(expected) {
        let difference = (f64::from(*got) - expected).abs();
        assert!(difference < 2e-6, "{what}: {got} is not {expected}");
    }
}

#[test]
fn a_sliding_window_is_attention_under_its_mask() {
    let (cache, table) = filled();
    for window in [1, 2, 15, 16, 17, 40, 100] {
        for position in 0..POSITIONS {
            let got = attended(&cache, &table, position, Some(Window::new(0, window)));
            let seen = mask(0, window, position).into_iter().map(|at| (at, at));
            let expected = defined((position, position), seen);
            assert_close(&got, &expected, &format!("window {window} at {position}"));
        }
    }
}

#[test]
fn sinks_and_window_are_attention_over_a_cache_without_the_gap() {
    let (cache, table) = filled();
    let mut shifted = 0;
    for (sinks, window) in [(1, 1), (4, 16), (16, 40), (17, 40), (40, 7)] {
        for position in 0..POSITIONS {
            let rule = Window::new(sinks, window);
            let got = attended(&cache, &table, position, Some(rule));
            // Every key, and the query, at its place in the cache.
            let seen = mask(sinks, window, position);
            let own = seen.len() - 1;
            shifted += usize::from(own < position);
            let keys = seen.into_iter().enumerate().map(|(at, key)| (key, at));
            let expected = defined((position, own), keys);
            let what = format!("{sinks} sinks and window {window} at {position}");
            assert_close(&got, &expected, &what);
            assert!(own < (rule.sinks() + 1) * BLOCK_TOKENS + window, "{what}");
        }
    }
    assert!(shifted > 300, "{shifted}");
}

#[test]
fn a_window_that_holds_all_changes_no_bit() {
    let (cache, table) = filled();
    for position in 0..POSITIONS {
        let all = attended(&cache, &table, position, None);
        for window in [
            Window::new(0, position + 1),
            Window::new(4, position + 1),
            Window::new(position + 1, 1),
        ] {
            let got = attended(&cache, &table, position, Some(window));
            assert_eq!(got, all, "{window:?} at {position}");
        }
    }
}

#[test]
fn what_is_gone_is_not_read() {
    let (cache, mut table) = filled();
    for window in [Window::new(0, 20), Window::new(4, 20)] {
        let position = POSITIONS - 1;
        let before = attended(&cache, &table, position, Some(window));
        let whole = table.clone();
        table[window.gone(position)].fill(BlockId::EVICTED);
        assert_eq!(attended(&cache, &table, position, Some(window)), before);
        table = whole;
    }
}

#[test]
#[should_panic(expected = "block 4294967295")]
fn a_window_that_shows_what_was_evicted_is_refused() {
    let (cache, mut table) = filled();
    table[5] = BlockId::EVICTED;
    attended(&cache, &table, POSITIONS - 1, Some(Window::new(0, 100)));
}

#[test]
fn blocks_have_the_mass_that_the_softmax_gave_their_positions() {
    let (cache, mut table) = filled();
    table[2] = BlockId::EVICTED;
    let kernels = Kernels::new(Level::detect()).unwrap();
    let positions = 100;
    // Two queries of one head group, the second as if it came from another head.
    let queries = [90, 91].map(|seed| turned(&vector(seed, positions - 1), positions - 1));
    let mass = AttentionMass::new(table.len());
    let visible = VisibleContext {
        table: &table,
        positions,
        window: None,
        sink_queries: None,
        mass: Some(&mass),
    };
    let new = StepRows {
        start: 0,
        keys: &[],
        key_stride: DIM,
        values: &[],
        value_stride: DIM,
    };
    let mut out = vec![0.0; 2 * DIM];
    let rows = queries.iter().flat_map(|query| floats(query));
    let rows: Vec<f32> = rows.collect();
    cache
        .reader()
        .attend(kernels, 0, 0, visible, new, &rows, SCALE, &mut out);
    let mut expected = vec![0.0; table.len()];
    for query in &queries {
        let seen = (0..positions).filter(|position| position / BLOCK_TOKENS != 2);
        let weight = |position: usize| {
            let key = turned(&vector(1, position), position);
            let dot: f64 = query.iter().zip(&key).map(|(q, k)| q * k).sum();
            (dot * f64::from(SCALE)).exp()
        };
        let total: f64 = seen.clone().map(weight).sum();
        seen.for_each(|position| expected[position / BLOCK_TOKENS] += weight(position) / total);
    }
    for (index, expected) in expected.iter().enumerate() {
        let got = mass.get(index);
        assert!(
            (got - expected).abs() < 1e-5,
            "{index}: {got}, not {expected}"
        );
    }
    mass.clear();
    assert_eq!(mass.get(0), 0.0);
}
