//! Tells the crate whether it is built for AddressSanitizer, so that freed memory is closed to every access.
#![allow(
    clippy::print_stdout,
    reason = "it is how a build script talks to cargo"
)]

fn main() {
    println!("cargo:rustc-check-cfg=cfg(ryz_asan)");
    println!("cargo:rerun-if-changed=build.rs");
    let sanitizers = std::env::var("CARGO_CFG_SANITIZE").unwrap_or_default();
    if sanitizers.split(',').any(|name| name == "address") {
        println!("cargo:rustc-cfg=ryz_asan");
    }
}
