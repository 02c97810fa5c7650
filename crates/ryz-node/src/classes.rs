//! The references that napi-rs makes to the constructors of the exported classes, given back with their environment.
//!
//! napi-rs (3.16) never deletes them: every worker thread that loads the package would leave some 50 bytes a class for as
//! long as the process lives, each in a page of its own.

use napi::bindgen_prelude::{Object, get_class_constructor};
use napi::{Env, Error, Result, sys};
use napi_derive::napi;

/// How the names of classes begin.
const PREFIX: &str = "Native";

/// The names of all exported classes, as napi-rs files them.
const CLASSES: [&str; 8] = [
    "NativeCancel\0",
    "NativeEngine\0",
    "NativeMemoryPolicy\0",
    "NativeOperator\0",
    "NativeQuantizer\0",
    "NativeRanker\0",
    "NativeRequest\0",
    "NativeTokenizer\0",
];

/// Called when an environment loads the package, after all is exported.
///
/// # Errors
/// A class that is not among [`CLASSES`], by name: it would leak.
#[napi(module_exports)]
pub fn release_with_environment(exports: Object<'_>, env: Env) -> Result<()> {
    for name in Object::keys(&exports)? {
        let listed = || {
            CLASSES
                .iter()
                .any(|class| class.strip_suffix('\0') == Some(&name))
        };
        if name.starts_with(PREFIX) && !listed() {
            return Err(Error::from_reason(format!(
                "the class {name} is not among those whose constructors are given back"
            )));
        }
    }
    let constructors = CLASSES.map(get_class_constructor);
    env.add_env_cleanup_hook(constructors, move |constructors| {
        for constructor in constructors.into_iter().flatten() {
            // SAFETY: napi-rs made the reference in this environment, on this thread, and has no further use for it: no
            // JavaScript runs any more, and a later load on this thread replaces what it filed.
            // There is nobody left to tell of a failure.
            let _ = unsafe { sys::napi_delete_reference(env.raw(), constructor) };
        }
    })?;
    Ok(())
}
