//! Blocks of four bits and the tails in which they are gathered.
#![allow(clippy::unwrap_used)]

use ryz_kernels::Kernels;
use ryz_kvcache::{
    BLOCK_TOKENS, BlockId, BlockPool, KvCache, KvCacheConfig, KvCacheError, KvDType, StepBlocks,
    StepRows, VisibleContext,
};
use ryz_tmac::{Arena, ArenaConfig};

const KEY_DIM: usize = 24;
const VALUE_DIM: usize = 40;

fn cache(blocks: usize, tails: usize) -> KvCache {
    let config = KvCacheConfig {
        layers: 1,
        kv_heads: 1,
        key_dim: KEY_DIM,
        value_dim: VALUE_DIM,
        dtype: KvDType::Int4,
        blocks,
        tails,
    };
    KvCache::new(&Arena::new(ArenaConfig::default()), config).unwrap()
}

fn blocks(pool: &mut BlockPool, count: usize) -> Vec<BlockId> {
    (0..count).map(|_| pool.allocate().unwrap()).collect()
}

/// Keys and values of the positions of a made-up text, halves already.
fn rows(text: u32, positions: std::ops::Range<usize>) -> (Vec<f32>, Vec<f32>) {
    let row = |position: usize, dim: usize, salt: u32| {
        (0..dim).map(move |c| {
            let x = (position as u32 * 131 + c as u32 * 31 + text * 977 + salt) % 1021;
            (x as f32 - 510.0) / 64.0
        })
    };
    let of =
        |dim, salt| -> Vec<f32> { positions.clone().flat_map(|p| row(p, dim, salt)).collect() };
    (of(KEY_DIM, 1), of(VALUE_DIM, 2))
}

/// Writes new positions as a step does, and gives the attention of each.
fn step(
    cache: &mut KvCache,
    table: &[BlockId],
    text: u32,
    positions: std::ops::Range<usize>,
) -> Result<Vec<f32>, KvCacheError> {
    let kernels = Kernels::default();
    let (start, end) = (positions.start, positions.end);
    cache.prepare([StepBlocks { table, start, end }].into_iter())?;
    let (keys, values) = rows(text, positions.clone());
    let mut first = start;
    while first < end {
        let next = end.min((first / BLOCK_TOKENS + 1) * BLOCK_TOKENS);
        let slot = first % BLOCK_TOKENS;
        let mut writer = cache.writer(table[first / BLOCK_TOKENS], slot..slot + next - first);
        writer.write(kernels, 0, 0, |at| {
            let row = first - start + at - slot;
            (
                &keys[row * KEY_DIM..][..KEY_DIM],
                &values[row * VALUE_DIM..][..VALUE_DIM],
            )
        });
        first = next;
    }
    let reader = cache.reader();
    let new = StepRows {
        start,
        keys: &keys,
        key_stride: KEY_DIM,
        values: &values,
        value_stride: VALUE_DIM,
    };
    Ok(positions
        .flat_map(|position| {
            let query = rows(7, position..position + 1).0;
            let mut out = vec![0.0; VALUE_DIM];
            reader.attend(
                kernels,
                0,
                0,
                VisibleContext {
                    table,
                    positions: position + 1,
                    window: None,
                    sink_queries: None,
                    mass: None,
                },
                new,
                &query,
                0.02,
                &mut out,
            );
            out
        })
        .collect())
}

#[test]
fn attention_does_not_depend_on_how_positions_came() {
    let mut pool = BlockPool::new(8);
    let table = blocks(&mut pool, 6);
    let expected = step(&mut cache(8, 2), &table, 0, 0..90).unwrap();
    for chunk in [1, 2, 5, 15, 16, 17, 31, 33, 64] {
        let mut cache = cache(8, 2);
        let mut got = Vec::new();
        for start in (0..90).step_by(chunk) {
            got.extend(step(&mut cache, &table, 0, start..90.min(start + chunk)).unwrap());
        }
        assert!(got == expected, "steps of {chunk}");
    }
}

#[test]
fn a_sequence_may_go_back_and_take_another_way() {
    let mut pool = BlockPool::new(8);
    let table = blocks(&mut pool, 4);
    // Drafts that were not kept, over the end of a block and within one.
    for (kept, drafted) in [(14, 18), (15, 16), (16, 17), (3, 9), (17, 33), (31, 40)] {
        let mut plain = cache(8, 2);
        step(&mut plain, &table, 0, 0..kept).unwrap();
        let expected = step(&mut plain, &table, 5, kept..50).unwrap();
        let mut other = cache(8, 2);
        for position in 0..kept.min(2) {
            step(&mut other, &table, 0, position..position + 1).unwrap();
        }
        step(&mut other, &table, 0, 2..kept).unwrap();
        step(&mut other, &table, 3, kept..drafted).unwrap();
        let got = step(&mut other, &table, 5, kept..50).unwrap();
        assert!(got == expected, "{drafted} back to {kept}");
    }
}

#[test]
fn tails_move_with_their_blocks() {
    let mut pool = BlockPool::new(8);
    let hole = blocks(&mut pool, 2);
    let mut table = blocks(&mut pool, 2);
    let mut moved = cache(8, 2);
    let before = step(&mut moved, &table, 0, 0..21).unwrap();
    hole.into_iter().for_each(|block| pool.release(block));
    let moves = pool.compact();
    moved.move_blocks(&moves);
    for block in &mut table {
        *block = moves.iter().find(|m| m.from == *block).unwrap().to;
    }
    let after = step(&mut moved, &table, 0, 21..30).unwrap();
    let expected = step(&mut cache(8, 2), &table, 0, 0..30).unwrap();
    assert!([before, after].concat() == expected);
}

#[test]
fn tails_run_out_and_are_given_back_with_their_sequences() {
    let mut pool = BlockPool::new(8);
    let [first, second, third] = [(); 3].map(|()| blocks(&mut pool, 2));
    let mut cache = cache(8, 2);
    step(&mut cache, &first, 0, 0..5).unwrap();
    step(&mut cache, &second, 0, 0..20).unwrap_err(); // both of its blocks want one
    cache.keep_tails([first[0]].into_iter());
    step(&mut cache, &second, 0, 0..5).unwrap();
    let error = step(&mut cache, &third, 0, 0..5).unwrap_err();
    assert!(
        matches!(error, KvCacheError::Tails { expected: 2 }),
        "{error}"
    );
    // The second one ends.
    cache.keep_tails([first[0]].into_iter());
    step(&mut cache, &third, 0, 0..5).unwrap();
    let error = step(&mut cache, &second, 0, 5..6).unwrap_err();
    assert!(
        matches!(error, KvCacheError::TailMissing { position: 5 }),
        "{error}"
    );
    step(&mut cache, &first, 0, 5..6).unwrap();
}

#[test]
fn four_bits_take_the_bytes_that_are_documented() {
    let bytes = |dtype| {
        let config = KvCacheConfig {
            layers: 12,
            kv_heads: 12,
            key_dim: 64,
            value_dim: 64,
            dtype,
            blocks: 32,
            tails: 2,
        };
        config.bytes_per_block().unwrap() / (12 * 12 * BLOCK_TOKENS)
    };
    // A key and a value of 64: 32 bytes each; 16 for each key's share of scales and minima, 8 of each value's own.
    assert_eq!(KvDType::ALL.map(bytes), [512, 256, 136, 88]);
}
