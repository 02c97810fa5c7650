//! Policies decide about every mapping, and hear of its end; mapped files are listed and read in place.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use ryz_tmac::{
    Arena, ArenaConfig, BufferKind, BuiltInPolicy, HugePages, InputFile, MappedSlice, MemoryPolicy,
    MemoryRequest, NodePlacement, NodeSet, PlacementRequest, ReadOnlySlice, SharedPolicy,
};

type Heard = Arc<Mutex<Vec<(bool, usize, BufferKind, String)>>>;

/// Writes down what it is asked; denies caches.
#[derive(Clone)]
struct Listening(Heard, Arc<Mutex<Option<Arena>>>);

impl Listening {
    fn hear(&self, begins: bool, request: &MemoryRequest<'_>) {
        let heard = (
            begins,
            request.bytes,
            request.kind,
            request.owner.to_owned(),
        );
        self.0.lock().unwrap().push(heard);
    }
}

impl MemoryPolicy for Listening {
    fn on_allocate(&self, request: &MemoryRequest<'_>) -> Result<PlacementRequest, String> {
        self.hear(true, request);
        // The books are open to a policy that is asked.
        if let Some(arena) = &*self.1.lock().unwrap() {
            assert!(arena.layout().stats.in_use >= request.bytes.min(64));
        }
        match request.kind {
            BufferKind::KvCache => Err("no caches here".to_owned()),
            BufferKind::Scratch => Ok(PlacementRequest {
                huge_pages: Some(HugePages::Off),
                ..PlacementRequest::default()
            }),
            _ => Ok(PlacementRequest::default()),
        }
    }

    fn on_free(&self, request: &MemoryRequest<'_>) {
        self.hear(false, request);
    }
}

#[test]
fn a_policy_is_asked_for_every_mapping_and_hears_of_its_end() {
    let heard = Heard::default();
    let policy = Listening(Arc::clone(&heard), Arc::default());
    let arena = Arena::with_policy(ArenaConfig::default(), SharedPolicy::new(policy.clone()));
    *policy.1.lock().unwrap() = Some(arena.clone());
    const LARGE: usize = 4 << 20;

    let weights = arena.labelled("blk.0").allocate(LARGE, BufferKind::Weights);
    let weights = weights.unwrap();
    let small: Vec<_> = (0..10)
        .map(|_| arena.allocate(100, BufferKind::Weights).unwrap())
        .collect();
    let scratch = arena.allocate(LARGE, BufferKind::Scratch).unwrap();
    let before = arena.stats().in_use;
    let denied = arena.allocate(LARGE, BufferKind::KvCache).unwrap_err();
    assert_eq!(denied.code(), "MEMORY_LIMIT");
    assert_eq!(
        denied.to_string(),
        format!(
            "memory policy: {} bytes for kv-cache denied: no caches here",
            LARGE + 64
        )
    );
    // What was denied is not in the books.
    assert_eq!(arena.stats().in_use, before);
    arena
        .labelled("pool")
        .preallocate_pool(1000, 100, BufferKind::Weights)
        .unwrap();

    let kinds = |heard: &Heard| -> Vec<(bool, BufferKind, String)> {
        let heard = heard.lock().unwrap();
        let heard = heard.iter();
        heard
            .map(|(b, _, kind, owner)| (*b, *kind, owner.clone()))
            .collect()
    };
    let asked = |kind, owner: &str| (true, kind, owner.to_owned());
    assert_eq!(
        kinds(&heard),
        [
            asked(BufferKind::Weights, "blk.0"),
            // Ten small buffers share a region.
            asked(BufferKind::Weights, ""),
            asked(BufferKind::Scratch, ""),
            asked(BufferKind::KvCache, ""),
            asked(BufferKind::Weights, "pool"),
        ]
    );
    let layout = arena.layout();
    let of = |kind| {
        layout
            .regions
            .iter()
            .find(|r| r.kind == kind && r.bytes > LARGE)
            .unwrap()
    };
    assert_eq!(of(BufferKind::Scratch).huge_pages, HugePages::Off);
    assert_eq!(of(BufferKind::Weights).huge_pages, HugePages::Transparent);

    heard.lock().unwrap().clear();
    drop((weights, scratch));
    drop(small);
    assert_eq!(arena.clear_pool(1000, BufferKind::Weights), 100 * 1024);
    let ended: Vec<_> = kinds(&heard);
    assert_eq!(ended.len(), 4);
    assert!(ended.iter().all(|(begins, ..)| !begins));
    assert_eq!(arena.stats().mapped, 0);
    // The policy holds the arena, and the arena the policy.
    *policy.1.lock().unwrap() = None;
}

#[test]
fn the_built_in_policies_do_what_they_say() {
    let with = |policy| Arena::with_policy(ArenaConfig::default(), SharedPolicy::new(policy));
    let kind = BufferKind::Scratch;

    let limited = with(BuiltInPolicy::limit(1 << 20));
    let half = limited.allocate(600 << 10, kind).unwrap();
    let denied = limited.allocate(600 << 10, kind).unwrap_err();
    assert!(
        denied.to_string().ends_with("of 1048576 bytes are mapped"),
        "{denied}"
    );
    drop(half);
    limited.allocate(600 << 10, kind).unwrap();

    let huge = with(BuiltInPolicy::huge_pages());
    let buffer = huge.allocate(4 << 20, kind).unwrap();
    let region = &huge.layout().regions[0];
    // A machine without pages set apart says so.
    assert!(
        region.huge_pages == HugePages::Explicit
            || region.fallbacks[0].wanted == "explicit huge pages"
    );
    drop(buffer);

    let node = NodeSet::one(0).unwrap();
    let interleaved = with(BuiltInPolicy::interleave(node));
    let _buffer = interleaved.allocate(4 << 20, kind).unwrap();
    let region = &interleaved.layout().regions[0];
    assert!(
        region.placement == NodePlacement::Interleave(node)
            || region.fallbacks[0].wanted == "interleave:0"
    );

    let allowing = with(BuiltInPolicy::allow());
    let _buffer = allowing.allocate(4 << 20, kind).unwrap();
    assert!(allowing.layout().regions[0].fallbacks.is_empty());
}

#[test]
fn a_mapped_file_is_listed_and_its_elements_are_read_in_place() {
    let path = std::env::temp_dir().join(format!("ryz-map-{}", std::process::id()));
    let words: Vec<u32> = (0..1000).collect();
    std::fs::write(&path, bytemuck::cast_slice::<u32, u8>(&words)).unwrap();
    let arena = Arena::new(ArenaConfig::default());
    let file = arena.map_file(&InputFile::open(&path).unwrap()).unwrap();
    let slice = MappedSlice::<u32>::new(&file, 400, 900).unwrap();
    assert_eq!(slice[..], words[100..]);
    let stored = ReadOnlySlice::from(slice);
    assert_eq!(stored.as_ptr().addr(), file.as_ptr().addr() + 400);
    // Too far, and not on the bounds of a word.
    assert!(MappedSlice::<u32>::new(&file, 400, 901).is_none());
    assert!(MappedSlice::<u32>::new(&file, 401, 1).is_none());
    assert!(MappedSlice::<u32>::new(&file, u64::MAX, 1).is_none());
    assert!(MappedSlice::<u32>::new(&file, 0, usize::MAX).is_none());
    let layout = arena.layout();
    assert_eq!(
        (layout.files[0].bytes, &layout.files[0].path),
        (4000, &path)
    );
    assert!(layout.to_string().contains("mapped file"));
    drop(file);
    assert_eq!(arena.layout().files.len(), 1, "its elements hold it");
    drop(stored);
    assert!(arena.layout().files.is_empty());
    std::fs::remove_file(&path).unwrap();
}
