//! The machine: which processing units there are and which of them this process may use.

use hwlocality::{
    Topology as Hwloc,
    cpu::{binding::CpuBindingFlags, cpuset::CpuSet},
    object::types::ObjectType,
    topology::builder::BuildFlags,
};

use crate::{TopologyError, cgroup};

/// A core: processing units that share one execution engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Core {
    /// Operating-system indices of its processing units that this process may use; the first is where a thread is
    /// pinned.
    pub units: Vec<usize>,
    /// Operating-system index of the memory node nearest to it.
    pub node: usize,
}

/// The cores that this process may use.
#[derive(Debug)]
pub struct Topology {
    hwloc: Hwloc,
    cores: Vec<Core>,
}

impl Topology {
    /// Reads this machine.
    ///
    /// # Errors
    /// [`TopologyError::Unreadable`].
    pub fn detect() -> Result<Self, TopologyError> {
        let hwloc = Hwloc::builder()
            .with_flags(
                // The affinity mask counts as well as the cpuset; discovery moves no thread.
                BuildFlags::ASSUME_THIS_SYSTEM
                    | BuildFlags::RESTRICT_CPU_TO_THIS_PROCESS
                    | BuildFlags::DONT_CHANGE_BINDING,
            )
            .map_err(unreadable)?
            .build()
            .map_err(unreadable)?;
        Ok(Self::from_hwloc(hwloc))
    }

    /// A made-up machine in hwloc's synthetic form, such as `numa:2 core:4 pu:2`: for placement decisions in tests.
    ///
    /// # Errors
    /// [`TopologyError::InvalidSynthetic`].
    pub fn synthetic(description: &str) -> Result<Self, TopologyError> {
        let invalid = || TopologyError::InvalidSynthetic {
            got: description.to_owned(),
        };
        let builder = Hwloc::builder()
            .from_synthetic(description)
            .map_err(|_| invalid())?;
        Ok(Self::from_hwloc(builder.build().map_err(|_| invalid())?))
    }

    fn from_hwloc(hwloc: Hwloc) -> Self {
        let allowed: Vec<usize> = hwloc.allowed_cpuset().iter_set().map(usize::from).collect();
        let mut cores: Vec<Core> = hwloc
            .objects_with_type(ObjectType::Core)
            .filter_map(|core| {
                let cpuset = core.cpuset()?;
                let units = cpuset
                    .iter_set()
                    .map(usize::from)
                    .filter(|unit| allowed.contains(unit))
                    .collect();
                let node = core
                    .nodeset()
                    .and_then(|nodes| nodes.first_set())
                    .map_or(0, usize::from);
                Some(Core { units, node })
            })
            .filter(|core| !core.units.is_empty())
            .collect();
        if cores.is_empty() {
            // Some virtual machines show no cores: each processing unit stands for one.
            cores = allowed
                .into_iter()
                .map(|unit| Core {
                    units: vec![unit],
                    node: 0,
                })
                .collect();
        }
        Self { hwloc, cores }
    }

    /// The usable cores, in hwloc's order: neighbours share caches.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// The processing unit that worker `index` is pinned to: first units of all cores, then their siblings; `None` when
    /// there are no more units than workers before it, and the thread is left to the system.
    pub fn unit_for(&self, index: usize) -> Option<usize> {
        let depth = self.cores.iter().map(|core| core.units.len()).max()?;
        let by_turn = (0..depth).flat_map(|turn| {
            self.cores
                .iter()
                .filter_map(move |core| core.units.get(turn))
        });
        by_turn.copied().nth(index)
    }

    /// Binds the calling thread to one processing unit. Does nothing on a machine that is not this one, and nothing when
    /// the system says no: a thread that floats is slower, not wrong.
    pub fn bind_current_thread(&self, unit: usize) -> bool {
        if !self.hwloc.is_this_system() {
            return false;
        }
        let Ok(index) = unit.try_into() else {
            return false;
        };
        let index: hwlocality::bitmap::BitmapIndex = index;
        let cpuset = CpuSet::from(index);
        self.hwloc
            .bind_cpu(&cpuset, CpuBindingFlags::THREAD)
            .is_ok()
    }
}

fn unreadable(source: impl std::error::Error + Send + Sync + 'static) -> TopologyError {
    TopologyError::Unreadable {
        source: Box::new(source),
    }
}

/// Threads to use when nobody says: one for each core that this process may run on, at most the CPU time that its
/// control group allows, at least one. Without a readable topology, what the standard library counts.
pub fn default_threads() -> usize {
    let cores = match Topology::detect() {
        Ok(topology) => topology.cores.len(),
        Err(_) => std::thread::available_parallelism().map_or(1, usize::from),
    };
    threads_within(cores, cgroup::cpu_quota())
}

fn threads_within(cores: usize, quota: Option<f64>) -> usize {
    let by_quota = quota.map_or(usize::MAX, |quota| quota.ceil() as usize);
    cores.min(by_quota).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_fill_cores_before_siblings() {
        let machine = Topology::synthetic("numa:2 core:2 pu:2").unwrap();
        assert_eq!(machine.cores().len(), 4);
        let units: Vec<_> = (0..9).map(|worker| machine.unit_for(worker)).collect();
        let expected = [0, 2, 4, 6, 1, 3, 5, 7].map(Some).into_iter().chain([None]);
        assert_eq!(units, expected.collect::<Vec<_>>());
        assert_eq!(
            machine
                .cores()
                .iter()
                .map(|core| core.node)
                .collect::<Vec<_>>(),
            [0, 0, 1, 1]
        );
    }

    #[test]
    fn binding_on_a_synthetic_machine_is_not_pretended() {
        assert!(
            !Topology::synthetic("core:2 pu:1")
                .unwrap()
                .bind_current_thread(0)
        );
    }

    #[test]
    fn this_machine_binds_and_counts() {
        let machine = Topology::detect().unwrap();
        assert!(!machine.cores().is_empty());
        let bound =
            std::thread::spawn(move || machine.bind_current_thread(machine.unit_for(0).unwrap()));
        assert!(bound.join().unwrap());
        assert!(default_threads() >= 1);
    }

    #[test]
    fn a_quota_rounds_up_and_never_to_nothing() {
        assert_eq!(threads_within(8, None), 8);
        assert_eq!(threads_within(8, Some(1.5)), 2);
        assert_eq!(threads_within(2, Some(64.0)), 2);
        assert_eq!(threads_within(2, Some(0.1)), 1);
    }

    #[test]
    fn a_bad_description_is_a_typed_error() {
        assert!(matches!(
            Topology::synthetic("two of everything"),
            Err(TopologyError::InvalidSynthetic { .. })
        ));
    }
}
