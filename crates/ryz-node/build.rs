//! Passes the linker flags that a Node.js addon needs.

fn main() {
    napi_build::setup();
    // A thread that compiles a grammar may outlive the worker that loaded the addon: its code stays.
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "linux") {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
}
