//! Token-Aligned Memory: the arena every large buffer comes from, strided views, file reads and maps.
