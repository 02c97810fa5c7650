//! Locks.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a mutex holds, also after a panic of whoever held it: the panic is reported where it happened.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
