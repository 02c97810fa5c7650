//! The process's address-space limit (`ulimit -v`), as reported by Linux in `/proc`.

/// Bytes of address space that the process may still use; `None` if there is no limit, or if the
/// system does not report one.
pub fn address_space_left() -> Option<u64> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let read = |path| std::fs::read_to_string(path).ok();
    left(&read("/proc/self/limits")?, &read("/proc/self/status")?)
}

/// The unused part of the soft limit. `limits` is in bytes, `status` in KiB.
fn left(limits: &str, status: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?;
    // "unlimited", or a number.
    let limit: u64 = line.split_whitespace().next()?.parse().ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmSize:"))?;
    let taken: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(limit.saturating_sub(taken.saturating_mul(1024)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITED: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
        Max cpu time              unlimited            unlimited            seconds   \n\
        Max address space         1024000000           unlimited            bytes     \n";

    #[test]
    fn what_is_left_is_the_limit_less_what_is_taken() {
        let status = "Name:\tnode\nVmPeak:\t  900000 kB\nVmSize:\t  500000 kB\n";
        assert_eq!(left(LIMITED, status), Some(512_000_000));
        assert_eq!(left(LIMITED, "VmSize:\t 9999999 kB\n"), Some(0));
        let free = LIMITED.replace("1024000000", "unlimited ");
        assert_eq!(left(&free, status), None);
        assert_eq!(left("", status), None);
    }
}
