//! The CPU quota of this process's control group.

use std::{fs, path::Path};

/// CPU quota in CPUs (cgroup v2 `cpu.max`, v1 `cpu.cfs_quota_us` over `cpu.cfs_period_us`): the
/// smallest between the group and the root; `None` without a quota or without control groups.
pub(crate) fn cpu_quota() -> Option<f64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    quota_under(Path::new("/sys/fs/cgroup"), &own)
}

/// [`cpu_quota`] for a mounted hierarchy and the text of `/proc/self/cgroup`.
fn quota_under(mount: &Path, own: &str) -> Option<f64> {
    let mut smallest: Option<f64> = None;
    for line in own.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let quota = if controllers.is_empty() {
            smallest_upwards(mount, path, quota_v2)
        } else if controllers.split(',').any(|controller| controller == "cpu") {
            // The mount points of the controllers are a convention, and the order of their names
            // varies.
            [controllers, "cpu", "cpu,cpuacct", "cpuacct,cpu"]
                .iter()
                .find_map(|name| smallest_upwards(&mount.join(name), path, quota_v1))
        } else {
            None
        };
        if let Some(quota) = quota {
            smallest = Some(smallest.map_or(quota, |least| least.min(quota)));
        }
    }
    smallest
}

/// The smallest quota of the group `path` in the hierarchy `root` and of its ancestors. In a
/// container the path may be the host's, so missing groups count as unlimited, and the root is
/// checked too.
fn smallest_upwards(root: &Path, path: &str, read: fn(&Path) -> Option<f64>) -> Option<f64> {
    let group = Path::new(path.trim_start_matches('/'));
    group
        .ancestors()
        .filter_map(|group| read(&root.join(group)))
        .reduce(f64::min)
}

fn quota_v2(folder: &Path) -> Option<f64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut fields = text.split_whitespace();
    ratio(fields.next()?, fields.next()?)
}

fn quota_v1(folder: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(folder.join(name)).ok();
    ratio(
        read("cpu.cfs_quota_us")?.trim(),
        read("cpu.cfs_period_us")?.trim(),
    )
}

/// `quota / period`; "max" and −1 mean no quota.
fn ratio(quota: &str, period: &str) -> Option<f64> {
    let (quota, period): (f64, f64) = (quota.parse().ok()?, period.parse().ok()?);
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: std::path::PathBuf, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn v2_takes_the_smallest_on_the_way_up() {
        let mount = tempfile::tempdir().unwrap();
        file(mount.path().join("a/b/cpu.max"), "max 100000\n");
        file(mount.path().join("a/cpu.max"), "150000 100000\n");
        file(mount.path().join("cpu.max"), "400000 100000\n");
        assert_eq!(quota_under(mount.path(), "0::/a/b\n"), Some(1.5));
        assert_eq!(quota_under(mount.path(), "0::/not/visible\n"), Some(4.0));
    }

    #[test]
    fn v1_reads_quota_and_period() {
        let mount = tempfile::tempdir().unwrap();
        file(
            mount.path().join("cpu,cpuacct/x/cpu.cfs_quota_us"),
            "50000\n",
        );
        file(
            mount.path().join("cpu,cpuacct/x/cpu.cfs_period_us"),
            "100000\n",
        );
        file(mount.path().join("cpu,cpuacct/cpu.cfs_quota_us"), "-1\n");
        file(
            mount.path().join("cpu,cpuacct/cpu.cfs_period_us"),
            "100000\n",
        );
        assert_eq!(
            quota_under(mount.path(), "4:cpu,cpuacct:/x\n3:memory:/x\n"),
            Some(0.5)
        );
    }

    #[test]
    fn v1_controllers_may_be_mounted_in_another_order() {
        let mount = tempfile::tempdir().unwrap();
        file(mount.path().join("cpu,cpuacct/cpu.cfs_quota_us"), "300000");
        file(mount.path().join("cpu,cpuacct/cpu.cfs_period_us"), "100000");
        assert_eq!(
            quota_under(mount.path(), "4:cpuacct,cpu:/docker/1\n"),
            Some(3.0)
        );
    }

    #[test]
    fn of_both_versions_the_smaller_counts() {
        let mount = tempfile::tempdir().unwrap();
        file(mount.path().join("cpu/cpu.cfs_quota_us"), "250000");
        file(mount.path().join("cpu/cpu.cfs_period_us"), "100000");
        file(mount.path().join("cpu.max"), "200000 100000");
        assert_eq!(quota_under(mount.path(), "1:cpu:/\n0::/\n"), Some(2.0));
        assert_eq!(quota_under(mount.path(), "1:cpu:/\n"), Some(2.5));
    }

    #[test]
    fn nonsense_is_no_quota() {
        for text in [
            "lots\n",
            "",
            "100000",
            "0 100000",
            "100000 0",
            "-5 100000",
            "NaN 1",
            "max max",
        ] {
            let mount = tempfile::tempdir().unwrap();
            file(mount.path().join("cpu.max"), text);
            assert_eq!(
                quota_under(mount.path(), "0::/\nrubbish\n::\n"),
                None,
                "{text:?}"
            );
        }
        assert_eq!(
            quota_under(Path::new("/nowhere"), "0::/a\n1:cpu:/a\n"),
            None
        );
    }
}
