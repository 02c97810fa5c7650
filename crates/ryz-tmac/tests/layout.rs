//! The layout against a model of what was taken and freed, pools, pages and nodes.

use std::collections::HashMap;

use proptest::prelude::*;
use ryz_tmac::{
    Arena, ArenaConfig, Buffer, BufferKind, HugePages, LINE, MemoryLayout, NodePlacement, NodeSet,
    RegionUse,
};

const LIMIT: usize = 8 << 20;

#[derive(Clone, Debug)]
enum Step {
    Allocate {
        bytes: usize,
        align: u32,
        kind: usize,
    },
    Free {
        pick: usize,
    },
    Preallocate {
        bytes: usize,
        count: usize,
        kind: usize,
    },
    Clear {
        pick: usize,
    },
}

fn sizes() -> impl Strategy<Value = usize> {
    prop_oneof![4 => 0usize..2000, 2 => 2000usize..150_000, 1 => 150_000usize..3_000_000]
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (sizes(), 0u32..15, 0usize..4).prop_map(|(bytes, align, kind)| Step::Allocate { bytes, align, kind }),
        5 => any::<usize>().prop_map(|pick| Step::Free { pick }),
        1 => (0usize..5000, 0usize..9, 0usize..4)
            .prop_map(|(bytes, count, kind)| Step::Preallocate { bytes, count, kind }),
        1 => any::<usize>().prop_map(|pick| Step::Clear { pick }),
    ];
    prop::collection::vec(step, 1..120)
}

/// What must hold of every layout, whatever was done before.
fn check(layout: &MemoryLayout) {
    let stats = layout.stats;
    let mut by_kind = [0; BufferKind::ALL.len()];
    let mut buffers = 0;
    let mut end = 0;
    for region in &layout.regions {
        assert!(region.address >= end, "regions overlap");
        end = region.address + region.bytes;
        assert!(region.blocks.len() <= region.capacity);
        assert!(!region.blocks.is_empty() || region.used_as == RegionUse::Pool);
        // Blocks and holes are the region, each byte once.
        let blocks = region
            .blocks
            .iter()
            .map(|b| (b.address, region.block_bytes));
        let holes = region.holes.iter().map(|h| (h.address, h.bytes));
        let mut parts: Vec<_> = blocks.chain(holes).collect();
        parts.sort_unstable();
        let mut at = region.address;
        for (address, bytes) in parts {
            assert_eq!(address, at, "a gap, or an overlap");
            at += bytes;
        }
        assert_eq!(at, region.address + region.block_bytes * region.capacity);
        assert!(at <= end);
        for block in &region.blocks {
            assert!(block.bytes + Buffer::PADDING <= region.block_bytes);
            by_kind[region.kind as usize] += block.bytes;
            buffers += 1;
        }
    }
    assert_eq!(stats.by_kind, by_kind);
    assert_eq!(stats.in_use, by_kind.iter().sum::<usize>());
    assert_eq!(stats.buffers, buffers);
    assert_eq!(
        stats.mapped,
        layout.regions.iter().map(|r| r.bytes).sum::<usize>()
    );
    let pools = layout
        .regions
        .iter()
        .filter(|r| r.used_as == RegionUse::Pool);
    let ready = |r: &ryz_tmac::RegionLayout| {
        (r.capacity - r.blocks.len()) * (r.block_bytes - Buffer::PADDING)
    };
    assert_eq!(stats.pooled, pools.map(ready).sum::<usize>());
    assert!(stats.in_use + stats.pooled <= LIMIT);
    assert!(stats.high_water >= stats.in_use + stats.pooled);
}

proptest! {
    #[test]
    fn random_use_agrees_with_a_model(steps in steps()) {
        let arena = Arena::new(ArenaConfig { limit: Some(LIMIT), poison: true, ..ArenaConfig::default() });
        let mut live: Vec<(Buffer, String)> = Vec::new();
        // Bytes held ready, by size and kind.
        let mut pools: HashMap<(usize, usize), usize> = HashMap::new();
        let mut taken_of_pools: HashMap<usize, (usize, usize)> = HashMap::new();
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Allocate { bytes, align, kind } => {
                    let label = format!("buffer {number}");
                    let pooled = arena.stats().pooled;
                    let held = arena.stats().in_use + pooled;
                    let taken = arena.labelled(label.as_str()).allocate_aligned(bytes, 1 << align, BufferKind::ALL[kind]);
                    let lines = bytes.next_multiple_of(LINE);
                    let key = (lines, kind);
                    let from_pool = align <= 6 && pools.get(&key).is_some_and(|&count| count > 0);
                    let Ok(mut buffer) = taken else {
                        prop_assert!(!from_pool && held + lines > LIMIT);
                        continue;
                    };
                    let address = buffer.as_bytes().as_ptr() as usize;
                    prop_assert!(address.is_multiple_of(LINE.max(1 << align)));
                    prop_assert!(buffer.padded_bytes().iter().all(|&byte| byte == 0));
                    buffer.as_bytes_mut().fill(number as u8);
                    prop_assert_eq!(arena.stats().pooled, pooled - if from_pool { lines } else { 0 });
                    if from_pool {
                        *pools.get_mut(&key).unwrap() -= 1;
                        taken_of_pools.insert(address, key);
                    }
                    live.push((buffer, label));
                }
                Step::Free { pick } if !live.is_empty() => {
                    let (buffer, label) = live.swap_remove(pick % live.len());
                    let number: usize = label["buffer ".len()..].parse().unwrap();
                    prop_assert!(buffer.as_bytes().iter().all(|&byte| byte == number as u8));
                    prop_assert!(buffer.padded_bytes()[buffer.len()..].iter().all(|&byte| byte == 0));
                    if let Some(key) = taken_of_pools.remove(&(buffer.as_bytes().as_ptr() as usize)) {
                        *pools.get_mut(&key).unwrap() += 1;
                    }
                    arena.deallocate(buffer);
                }
                Step::Preallocate { bytes, count, kind } if arena.preallocate_pool(bytes, count, BufferKind::ALL[kind]).is_ok() => {
                        *pools.entry((bytes.next_multiple_of(LINE), kind)).or_default() += count;
                }
                Step::Clear { pick } if !pools.is_empty() => {
                    let mut keys: Vec<_> = pools.keys().copied().collect();
                    keys.sort_unstable();
                    let key = keys[pick % keys.len()];
                    let ready = pools.remove(&key).unwrap();
                    prop_assert_eq!(arena.clear_pool(key.0, BufferKind::ALL[key.1]), ready * key.0);
                    taken_of_pools.retain(|_, other| *other != key);
                }
                _ => {}
            }
            let layout = arena.layout();
            check(&layout);
            prop_assert_eq!(layout.stats.pooled, pools.iter().map(|((lines, _), count)| lines * count).sum::<usize>());
            let mut listed: Vec<_> = layout.regions.iter().flat_map(|r| &r.blocks).map(|b| (b.address, b.owner.clone())).collect();
            let mut there: Vec<_> = live.iter().map(|(buffer, label)| (buffer.as_bytes().as_ptr() as usize, label.clone())).collect();
            listed.sort_unstable();
            there.sort_unstable();
            prop_assert_eq!(listed, there);
        }
        drop(live);
        for (lines, kind) in pools.into_keys() {
            arena.clear_pool(lines, BufferKind::ALL[kind]);
        }
        // Everything went back to the system.
        let layout = arena.layout();
        prop_assert_eq!((layout.stats.mapped, layout.regions.len()), (0, 0));
    }
}

#[test]
fn small_buffers_share_a_region_and_freed_ones_are_holes() {
    let arena = Arena::new(ArenaConfig::default());
    let norms = arena.labelled("norms");
    let mut held: Vec<_> = (0..10)
        .map(|_| norms.allocate(1000, BufferKind::Weights).unwrap())
        .collect();
    let addresses: Vec<_> = held
        .iter()
        .map(|b| b.as_bytes().as_ptr() as usize)
        .collect();
    held.remove(3);
    held.remove(3);
    let layout = arena.layout();
    assert_eq!(layout.regions.len(), 1);
    let region = &layout.regions[0];
    assert_eq!(
        (region.used_as, region.kind),
        (RegionUse::Chunk, BufferKind::Weights)
    );
    // 1,000 bytes in lines and one of padding: a class of its own.
    assert_eq!(region.block_bytes, 1024 + 256);
    assert_eq!(region.holes[0].address, addresses[3]);
    assert_eq!(region.holes[0].bytes, 2 * region.block_bytes);
    assert!(region.blocks.iter().all(|block| block.owner == "norms"));
    // The holes are used first.
    let again = arena.allocate(1000, BufferKind::Weights).unwrap();
    assert!(addresses[3..5].contains(&(again.as_bytes().as_ptr() as usize)));
}

#[test]
fn a_pool_counts_against_the_limit_and_serves_without_the_system() {
    let arena = Arena::new(ArenaConfig {
        limit: Some(10_000),
        ..ArenaConfig::default()
    });
    arena
        .preallocate_pool(1000, 8, BufferKind::KvCache)
        .unwrap();
    let stats = arena.stats();
    assert_eq!(
        (stats.in_use, stats.pooled, stats.high_water),
        (0, 8192, 8192)
    );
    let refused = arena.allocate(2000, BufferKind::Scratch).unwrap_err();
    assert_eq!(refused.code(), "MEMORY_LIMIT");
    let refused = arena.preallocate_pool(1000, 2, BufferKind::KvCache);
    assert_eq!(refused.unwrap_err().code(), "MEMORY_LIMIT");
    let held: Vec<_> = (0..8)
        .map(|_| arena.allocate(1000, BufferKind::KvCache).unwrap())
        .collect();
    let stats = arena.stats();
    assert_eq!(
        (stats.in_use, stats.pooled, stats.high_water),
        (8192, 0, 8192)
    );
    assert_eq!(arena.layout().regions.len(), 1);
    // The pool is empty: the ninth is a block like any other.
    let ninth = arena.allocate(1000, BufferKind::KvCache).unwrap();
    assert_eq!(arena.layout().regions.len(), 2);
    drop((held, ninth));
    assert_eq!(arena.stats().pooled, 8192);
    assert_eq!(arena.clear_pool(1000, BufferKind::KvCache), 8192);
    assert_eq!(arena.clear_pool(1000, BufferKind::KvCache), 0);
    assert_eq!(arena.stats().mapped, 0);
    let error = arena.preallocate_pool(usize::MAX / 4, 8, BufferKind::KvCache);
    assert_eq!(error.unwrap_err().code(), "OUT_OF_MEMORY");
}

#[test]
fn an_alignment_is_a_power_of_two() {
    let arena = Arena::new(ArenaConfig::default());
    for align in [1, 64, 128, 4096, 8192, 2 << 20, 4 << 20] {
        for bytes in [10, 5000, 300_000] {
            let buffer = arena
                .allocate_aligned(bytes, align, BufferKind::Scratch)
                .unwrap();
            assert!((buffer.as_bytes().as_ptr() as usize).is_multiple_of(align));
        }
    }
    for align in [0, 3, 96] {
        let error = arena
            .allocate_aligned(10, align, BufferKind::Scratch)
            .unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
    }
    assert_eq!(arena.stats().in_use, 0);
}

#[test]
fn discarded_bytes_are_zeroes() {
    let arena = Arena::new(ArenaConfig::default());
    for bytes in [100, 20_000, 1 << 20, 5 << 20] {
        for (from, to) in [(0, bytes), (1, bytes - 1), (bytes / 3, bytes / 2), (7, 7)] {
            let mut buffer = arena.allocate(bytes, BufferKind::KvCache).unwrap();
            buffer.as_bytes_mut().fill(1);
            let gone = buffer.discard(from..to);
            assert!(gone <= to - from);
            let expected = |at: usize| u8::from(!(from..to).contains(&at));
            let found = buffer.as_bytes().iter().enumerate();
            assert!(found.into_iter().all(|(at, &byte)| byte == expected(at)));
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn discarded_pages_cost_no_memory() {
    const SIZE: usize = 64 << 20;
    let arena = Arena::new(ArenaConfig::default());
    let mut buffer = arena.allocate(SIZE, BufferKind::KvCache).unwrap();
    buffer.as_bytes_mut().fill(1);
    let first = buffer.as_bytes().as_ptr();
    assert_eq!(resident_pages(first, SIZE), SIZE / 4096);
    let gone = buffer.discard(SIZE / 4..SIZE);
    assert_eq!(gone, SIZE / 4 * 3);
    assert_eq!(resident_pages(first, SIZE), SIZE / 4 / 4096);
}

/// How many pages of a range the system holds in memory: bit 63 of /proc/self/pagemap.
#[cfg(target_os = "linux")]
fn resident_pages(start: *const u8, bytes: usize) -> usize {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::open("/proc/self/pagemap").expect("Linux has it");
    let mut entries = vec![0; bytes / 4096 * 8];
    file.read_exact_at(&mut entries, (start as usize / 4096 * 8) as u64)
        .expect("the range is mapped");
    entries
        .chunks_exact(8)
        .filter(|entry| entry[7] & 0x80 != 0)
        .count()
}

#[cfg(target_os = "linux")]
#[test]
fn explicit_huge_pages_are_there_or_their_absence_is_told() {
    let free_pages = || -> usize {
        let told = std::fs::read_to_string("/proc/meminfo").unwrap();
        let line = told
            .lines()
            .find(|line| line.starts_with("HugePages_Free:"));
        line.map_or(0, |line| {
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        })
    };
    let arena = Arena::new(ArenaConfig {
        huge_pages: HugePages::Explicit,
        ..ArenaConfig::default()
    });
    let before = free_pages();
    let mut large = arena.allocate(5 << 20, BufferKind::Weights).unwrap();
    large.as_bytes_mut().fill(1);
    let _small = arena.allocate(500, BufferKind::Weights).unwrap();
    let layout = arena.layout();
    let region = |used_as| {
        layout
            .regions
            .iter()
            .find(|r| r.used_as == used_as)
            .unwrap()
    };
    assert_eq!(region(RegionUse::Chunk).huge_pages, HugePages::Off);
    let region = region(RegionUse::Buffer);
    if before >= 3 {
        println!("{before} explicit huge pages are there");
        assert_eq!(region.huge_pages, HugePages::Explicit);
        assert_eq!((region.page_bytes, region.fallbacks.len()), (2 << 20, 0));
        assert_eq!(large.discard(0..5 << 20), 4 << 20);
        assert!(large.as_bytes().iter().all(|&byte| byte == 0));
    } else {
        println!("no explicit huge pages here: the fallback is tested");
        assert_eq!(region.huge_pages, HugePages::Transparent);
        assert_eq!(region.fallbacks[0].wanted, "explicit huge pages");
        assert!(
            layout
                .to_string()
                .contains("wanted explicit huge pages, got transparent")
        );
    }
}

#[cfg(target_os = "linux")]
#[test]
fn pages_lie_on_the_nodes_asked_for_or_the_layout_says_why_not() {
    let zero = NodeSet::one(0).unwrap();
    for nodes in [NodePlacement::Bind(zero), NodePlacement::Interleave(zero)] {
        let arena = Arena::new(ArenaConfig {
            nodes,
            ..ArenaConfig::default()
        });
        let mut buffer = arena.allocate(1 << 20, BufferKind::Weights).unwrap();
        buffer.as_bytes_mut().fill(1);
        let layout = arena.layout();
        let region = &layout.regions[0];
        if region.fallbacks.is_empty() {
            assert_eq!(region.placement, nodes);
            assert!(region.nodes == zero || region.nodes.is_empty(), "{region}");
        } else {
            println!("{}", region.fallbacks[0].reason);
            assert_eq!(region.placement, NodePlacement::FirstTouch);
        }
    }
    let arena = Arena::new(ArenaConfig {
        nodes: NodePlacement::Bind(NodeSet::one(63).unwrap()),
        ..ArenaConfig::default()
    });
    match arena.allocate(1 << 20, BufferKind::Weights) {
        Err(error) => {
            assert_eq!(error.code(), "INVALID_ARGUMENT");
            assert_eq!(error.to_string(), "memory nodes 63 for weights");
        }
        Ok(_) => assert_eq!(arena.layout().regions[0].fallbacks.len(), 1),
    }
    assert_eq!(arena.stats().in_use, 0);
}

#[test]
fn text_and_json_say_what_lies_where() {
    let arena = Arena::new(ArenaConfig {
        limit: Some(64 << 20),
        ..ArenaConfig::default()
    });
    let _head = arena
        .labelled("output.weight")
        .allocate(3 << 20, BufferKind::Weights)
        .unwrap();
    let _keys = arena
        .labelled("keys and values")
        .allocate(9000, BufferKind::KvCache)
        .unwrap();
    let layout = arena.layout();
    let text = layout.to_string();
    assert!(
        text.starts_with("3.0 MiB in use by 2 buffers, 0 B pooled, "),
        "{text}"
    );
    for part in [
        "limit 64.0 MiB",
        "output.weight",
        "keys and values",
        "(free)",
        "first-touch",
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    let json: serde_json::Value = serde_json::from_str(&layout.to_json()).unwrap();
    assert_eq!(json["stats"]["inUse"], (3 << 20) + 9024);
    assert_eq!(json["stats"]["limit"], 64 << 20);
    let regions = json["regions"].as_array().unwrap();
    let head = regions.iter().find(|r| r["usedAs"] == "buffer").unwrap();
    assert_eq!(head["blocks"][0]["owner"], "output.weight");
    assert_eq!(head["kind"], "weights");
    assert_eq!(head["placement"], "first-touch");
}
