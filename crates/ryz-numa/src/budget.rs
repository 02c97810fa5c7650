//! The number of threads for this process.

use crate::{Topology, TopologyError, cgroup, placement::shared_out};

/// The CPU resources available to this process, and how they were determined.
#[derive(Debug)]
#[non_exhaustive]
pub struct CpuBudget {
    /// Physical cores; processing units if there is no topology.
    pub cores: usize,
    /// The cores that share a step: all cores, or only the fast ones if cores differ.
    pub fast_cores: usize,
    /// Processing units: cores including SMT siblings.
    pub units: usize,
    /// CPU quota of the control group, in CPUs.
    pub quota: Option<f64>,
    /// Why the topology could not be read; the counts then come from the standard library.
    pub fallback: Option<TopologyError>,
}

impl CpuBudget {
    /// Reads this machine's topology within the affinity mask and the cpuset, and the control
    /// group's quota. Never fails: without a topology, it uses the standard library's count, and
    /// [`CpuBudget::fallback`] gives the reason.
    pub fn detect() -> Self {
        Self::detect_with_topology().0
    }

    pub(crate) fn detect_with_topology() -> (Self, Option<Topology>) {
        let quota = cgroup::cpu_quota();
        match Topology::detect() {
            Ok(topology) => (Self::of(&topology, quota), Some(topology)),
            Err(reason) => {
                let units = std::thread::available_parallelism().map_or(1, usize::from);
                (Self::without_topology(reason, units, quota), None)
            }
        }
    }

    pub(crate) fn of(topology: &Topology, quota: Option<f64>) -> Self {
        Self {
            cores: topology.cores().len(),
            fast_cores: shared_out(topology.cores().iter()),
            units: topology.units(),
            quota,
            fallback: None,
        }
    }

    pub(crate) fn without_topology(
        reason: TopologyError,
        units: usize,
        quota: Option<f64>,
    ) -> Self {
        Self {
            cores: units,
            fast_cores: units,
            units,
            quota,
            fallback: Some(reason),
        }
    }

    /// Default number of threads: one per core (per fast core, if cores differ), at most the quota
    /// rounded up, at least one.
    pub fn default_threads(&self) -> usize {
        self.within_quota(self.fast_cores)
    }

    /// Threads that can run simultaneously.
    pub(crate) fn parallelism(&self) -> usize {
        self.within_quota(self.units)
    }

    pub(crate) fn within_quota(&self, threads: usize) -> usize {
        // An out-of-range float converts to the largest usize.
        let by_quota = self.quota.map_or(usize::MAX, |quota| quota.ceil() as usize);
        threads.min(by_quota).max(1)
    }
}

/// Default number of threads; see [`CpuBudget::default_threads`].
pub fn default_threads() -> usize {
    CpuBudget::detect().default_threads()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(description: &str, quota: Option<f64>) -> CpuBudget {
        CpuBudget::of(&Topology::synthetic(description).unwrap(), quota)
    }

    #[test]
    fn siblings_are_no_cores() {
        let machine = budget("numa:4 core:2 pu:2", None);
        assert_eq!((machine.cores, machine.units), (8, 16));
        assert_eq!((machine.default_threads(), machine.parallelism()), (8, 16));
    }

    #[test]
    fn a_quota_rounds_up_and_never_to_nothing() {
        for (cores, quota, expected) in [
            (8, None, 8),
            (8, Some(1.5), 2),
            (2, Some(64.0), 2),
            (2, Some(0.1), 1),
            (2, Some(1e300), 2),
            (1, Some(1.0), 1),
        ] {
            let machine = budget(&format!("core:{cores} pu:2"), quota);
            assert_eq!(machine.default_threads(), expected, "{cores} {quota:?}");
        }
    }

    #[test]
    fn an_unreadable_machine_is_counted_otherwise() {
        let reason = || TopologyError::Panicked {
            message: String::new(),
        };
        assert_eq!(
            CpuBudget::without_topology(reason(), 6, Some(2.5)).default_threads(),
            3
        );
        assert_eq!(
            CpuBudget::without_topology(reason(), 0, None).default_threads(),
            1
        );
    }

    #[test]
    fn this_machine_has_a_core() {
        let machine = CpuBudget::detect();
        assert!(
            machine.cores >= 1 && machine.units >= machine.cores,
            "{machine:?}"
        );
        assert!((1..=machine.cores).contains(&default_threads()));
        let counted = std::thread::available_parallelism().unwrap().get();
        assert!(
            machine.parallelism() <= counted.max(1),
            "{machine:?}, {counted} counted"
        );
    }
}
