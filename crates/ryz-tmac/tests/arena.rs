//! The arena against a model of its books, and what its buffers promise.

use proptest::prelude::*;
use ryz_tmac::{Arena, ArenaConfig, Buffer, BufferKind, LINE, MemoryError};

const LIMIT: usize = 1 << 20;

proptest! {
    /// Random allocations and frees: every live buffer keeps its own bytes, the books agree with a plain sum, and the
    /// limit holds.
    #[test]
    fn books_and_bytes_agree_with_a_model(steps in prop::collection::vec((any::<bool>(), 0usize..400_000, 0usize..4), 1..60)) {
        let arena = Arena::new(ArenaConfig { limit: Some(LIMIT), ..ArenaConfig::default() });
        let mut live: Vec<(Buffer, u8)> = Vec::new();
        let mut high_water = 0;
        for (step, (allocate, size, pick)) in steps.into_iter().enumerate() {
            let in_use: usize = live.iter().map(|(buffer, _)| buffer.len().next_multiple_of(LINE)).sum();
            if allocate {
                let kind = BufferKind::ALL[pick];
                match arena.allocate(size, kind) {
                    Ok(mut buffer) => {
                        prop_assert!(in_use + size.next_multiple_of(LINE) <= LIMIT);
                        prop_assert_eq!(buffer.len(), size);
                        prop_assert_eq!(buffer.as_bytes().as_ptr() as usize % LINE, 0);
                        prop_assert!(buffer.padded_bytes().iter().all(|&byte| byte == 0));
                        buffer.as_bytes_mut().fill(step as u8);
                        live.push((buffer, step as u8));
                    }
                    Err(MemoryError::LimitExceeded { in_use: told, limit, .. }) => {
                        prop_assert!(in_use + size.next_multiple_of(LINE) > LIMIT);
                        prop_assert_eq!((told, limit), (in_use, LIMIT));
                    }
                    Err(other) => prop_assert!(false, "{other}"),
                }
            } else if !live.is_empty() {
                let (buffer, byte) = live.swap_remove(size % live.len());
                prop_assert!(buffer.as_bytes().iter().all(|&b| b == byte));
                prop_assert!(buffer.padded_bytes()[buffer.len()..].iter().all(|&b| b == 0));
                prop_assert!(buffer.padded_bytes().len() >= buffer.len() + Buffer::PADDING);
            }
            let in_use: usize = live.iter().map(|(buffer, _)| buffer.len().next_multiple_of(LINE)).sum();
            high_water = high_water.max(in_use);
            let stats = arena.stats();
            prop_assert_eq!(stats.in_use, in_use);
            prop_assert_eq!(stats.high_water, high_water);
            prop_assert_eq!(stats.buffers, live.len());
            for kind in BufferKind::ALL {
                let of_kind = live.iter().filter(|(buffer, _)| buffer.kind() == kind);
                prop_assert_eq!(stats.of(kind), of_kind.map(|(buffer, _)| buffer.len().next_multiple_of(LINE)).sum::<usize>());
            }
        }
    }
}

#[test]
fn impossible_sizes_are_typed_errors() {
    let arena = Arena::new(ArenaConfig::default());
    for bytes in [usize::MAX, usize::MAX - 63, isize::MAX as usize] {
        let error = arena.allocate(bytes, BufferKind::Weights).unwrap_err();
        assert_eq!(error.code(), "OUT_OF_MEMORY", "{bytes}: {error}");
    }
    assert!(
        arena
            .allocate_slice::<f32>(usize::MAX / 2, BufferKind::Weights)
            .is_err()
    );
    let stats = arena.stats();
    assert_eq!((stats.in_use, stats.buffers), (0, 0));
    // What the system refused was never had.
    assert_eq!((stats.high_water, stats.allocations), (0, 0));
}

#[test]
fn the_limit_is_told_and_freeing_makes_room() {
    let arena = Arena::new(ArenaConfig {
        limit: Some(1000),
        ..ArenaConfig::default()
    });
    let first = arena.allocate(600, BufferKind::KvCache).unwrap();
    let error = arena.allocate(400, BufferKind::Scratch).unwrap_err();
    assert_eq!(error.code(), "MEMORY_LIMIT");
    assert_eq!(
        error.to_string(),
        "memory limit: 448 bytes for scratch asked with 640 of 1000 in use"
    );
    drop(first);
    assert!(arena.allocate(960, BufferKind::Scratch).is_ok());
    assert!(
        arena.allocate(961, BufferKind::Scratch).is_err(),
        "in whole lines that is 1,024"
    );
}

#[test]
fn the_limit_holds_when_threads_fight_for_it() {
    const LIMIT: usize = 8 << 20;
    let arena = Arena::new(ArenaConfig {
        limit: Some(LIMIT),
        ..ArenaConfig::default()
    });
    std::thread::scope(|scope| {
        for seed in 0..4usize {
            let arena = arena.clone();
            scope.spawn(move || {
                let mut live = Vec::new();
                for round in 0..400 {
                    let bytes = (round * 7919 + seed * 104_729) % (1 << 20);
                    match arena.allocate(bytes, BufferKind::ALL[round % 4]) {
                        Ok(buffer) => live.push(buffer),
                        Err(error) => {
                            assert_eq!(error.code(), "MEMORY_LIMIT");
                            live.clear();
                        }
                    }
                    assert!(arena.stats().in_use <= LIMIT);
                }
            });
        }
    });
    let stats = arena.stats();
    assert_eq!((stats.in_use, stats.buffers, stats.by_kind), (0, 0, [0; 4]));
    assert!(
        stats.high_water > LIMIT / 2 && stats.high_water <= LIMIT,
        "{stats:?}"
    );
}

#[test]
fn a_buffer_outlives_its_arena_and_may_move_to_another_thread() {
    let mut buffer = Arena::new(ArenaConfig::default())
        .allocate(1 << 20, BufferKind::Weights)
        .unwrap();
    buffer.as_bytes_mut()[1 << 19] = 7;
    let buffer = std::thread::spawn(move || buffer).join().unwrap();
    assert_eq!(buffer.as_bytes()[1 << 19], 7);
}

#[test]
fn elements_are_the_bytes() {
    let arena = Arena::new(ArenaConfig::default());
    for len in [0, 1, 15, 16, 17, 100_000] {
        let mut values = arena
            .allocate_slice::<f32>(len, BufferKind::Scratch)
            .unwrap();
        assert_eq!(values.len(), len);
        assert!(values.iter().all(|&value| value == 0.0));
        values.fill(1.0);
        assert_eq!(values.buffer().as_slice::<f32>(), &values[..]);
        assert_eq!(values.padded().as_ptr(), values.as_ptr());
        assert!(values.padded().len() >= len + Buffer::PADDING / 4);
        assert!(values.padded()[len..].iter().all(|&value| value == 0.0));
    }
    let mut bytes = arena.allocate(11, BufferKind::Scratch).unwrap();
    bytes.as_mut_slice::<u32>()[1] = u32::MAX;
    assert_eq!(bytes.as_slice::<u32>(), [0, u32::MAX]);
    assert_eq!(bytes.as_slice::<u64>(), [u64::from(u32::MAX) << 32]);
    assert_eq!(bytes.as_bytes(), [0, 0, 0, 0, 255, 255, 255, 255, 0, 0, 0]);
}

#[cfg(target_os = "linux")]
#[test]
fn freed_pages_go_back_to_the_system() {
    let resident = || {
        let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
        statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    const SIZE: usize = 256 << 20;
    let arena = Arena::new(ArenaConfig::default());
    let before = resident();
    let mut buffer = arena.allocate(SIZE, BufferKind::Weights).unwrap();
    buffer.as_bytes_mut().fill(1);
    assert!(resident() >= before + SIZE / 2);
    drop(buffer);
    assert!(resident() < before + SIZE / 4);
}
