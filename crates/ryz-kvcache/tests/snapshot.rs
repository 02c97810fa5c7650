//! Blocks that are kept as bytes and brought back.
#![allow(clippy::unwrap_used)]

use ryz_kernels::Kernels;
use ryz_kvcache::{BLOCK_TOKENS, BlockId, BlockPool, KvCache, KvCacheConfig, KvDType, StepBlocks};
use ryz_tmac::{Arena, ArenaConfig};

/// Whose rows fill no whole lines.
const KEY_DIM: usize = 10;
const VALUE_DIM: usize = 13;

fn fill(cache: &mut KvCache, block: BlockId) {
    let table = [block];
    let (start, end) = (0, BLOCK_TOKENS);
    let step = StepBlocks {
        table: &table,
        start,
        end,
    };
    cache.prepare([step].into_iter()).unwrap();
    let mut writer = cache.writer(block, 0..BLOCK_TOKENS);
    for layer in 0..2 {
        for head in 0..3 {
            let numbers: Vec<f32> = (0..BLOCK_TOKENS * (KEY_DIM + VALUE_DIM))
                .map(|at| ((at * 37 + layer * 11 + head * 5) % 101) as f32 / 16.0 - 3.0)
                .collect();
            let row = |slot: usize| {
                numbers[slot * (KEY_DIM + VALUE_DIM)..][..KEY_DIM + VALUE_DIM].split_at(KEY_DIM)
            };
            writer.write(Kernels::default(), layer, head, row);
        }
    }
}

fn copied(cache: &KvCache, block: BlockId) -> Vec<u8> {
    let mut bytes = vec![7; cache.config().bytes_per_block().unwrap()];
    cache.reader().copy_block(block, &mut bytes);
    bytes
}

#[test]
fn equal_keys_and_values_are_equal_bytes_wherever_they_were() {
    for dtype in KvDType::ALL {
        let config = KvCacheConfig {
            layers: 2,
            kv_heads: 3,
            key_dim: KEY_DIM,
            value_dim: VALUE_DIM,
            dtype,
            blocks: 4,
            tails: 8,
        };
        let mut cache = KvCache::new(&Arena::new(ArenaConfig::default()), config).unwrap();
        let mut pool = BlockPool::new(4);
        let blocks: Vec<_> = (0..4).map_while(|_| pool.allocate()).collect();
        fill(&mut cache, blocks[0]);
        let bytes = copied(&cache, blocks[0]);
        assert!(bytes.iter().any(|&byte| byte != 0));
        // A place that held something else.
        cache.write_block(blocks[1], &vec![0xff; bytes.len()]);
        fill(&mut cache, blocks[1]);
        assert_eq!(copied(&cache, blocks[1]), bytes, "{dtype}");
        cache.write_block(blocks[3], &bytes);
        assert_eq!(copied(&cache, blocks[3]), bytes, "{dtype}");
        // Its neighbour is as it was.
        assert!(copied(&cache, blocks[2]).iter().all(|&byte| byte == 0));
    }
}

#[test]
#[should_panic(expected = "bytes of a block")]
fn a_block_of_another_shape_is_our_own_fault() {
    let config = KvCacheConfig {
        layers: 1,
        kv_heads: 1,
        key_dim: 8,
        value_dim: 8,
        dtype: KvDType::F16,
        blocks: 1,
        tails: 0,
    };
    let mut cache = KvCache::new(&Arena::new(ArenaConfig::default()), config).unwrap();
    let block = BlockPool::new(1).allocate().unwrap();
    cache.write_block(block, &[0; 64]);
}
