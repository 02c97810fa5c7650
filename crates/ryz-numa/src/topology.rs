//! The machine: which processing units there are and which of them this process may use.

use std::panic::catch_unwind;

use hwlocality::{
    Topology as Hwloc,
    cpu::{binding::CpuBindingFlags, cpuset::CpuSet},
    object::types::ObjectType,
    topology::builder::BuildFlags,
};

use crate::{TopologyError, error::panic_message};

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
    /// Reads this machine, which takes milliseconds.
    ///
    /// # Errors
    /// [`TopologyError::Unreadable`] and [`TopologyError::Panicked`]: what a machine shows of itself comes from outside.
    pub fn detect() -> Result<Self, TopologyError> {
        catch_unwind(Self::read).unwrap_or_else(|payload| {
            Err(TopologyError::Panicked {
                message: panic_message(&*payload),
            })
        })
    }

    fn read() -> Result<Self, TopologyError> {
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

    /// The usable processing units in the order in which workers are bound to them: the first unit of every core, then
    /// their siblings.
    pub fn units(&self) -> impl Iterator<Item = usize> {
        let depth = self.cores.iter().map(|core| core.units.len()).max();
        (0..depth.unwrap_or(0)).flat_map(|turn| {
            let cores = self.cores.iter();
            cores.filter_map(move |core| core.units.get(turn).copied())
        })
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

#[cfg(test)]
mod tests {
    use hwlocality::topology::editor::RestrictFlags;

    use super::*;

    fn units(machine: &Topology) -> Vec<usize> {
        machine.units().collect()
    }

    #[test]
    fn units_fill_cores_before_siblings() {
        let machine = Topology::synthetic("numa:2 core:2 pu:2").unwrap();
        assert_eq!(machine.cores().len(), 4);
        assert_eq!(units(&machine), [0, 2, 4, 6, 1, 3, 5, 7]);
        let nodes: Vec<_> = machine.cores().iter().map(|core| core.node).collect();
        assert_eq!(nodes, [0, 0, 1, 1]);
    }

    #[test]
    fn four_nodes_and_one_core() {
        let machine = Topology::synthetic("numa:4 l3:1 core:2 pu:1").unwrap();
        let nodes: Vec<_> = machine.cores().iter().map(|core| core.node).collect();
        assert_eq!(nodes, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(units(&Topology::synthetic("pu:1").unwrap()), [0]);
    }

    #[test]
    fn a_machine_that_shows_no_cores_has_one_for_each_unit() {
        let machine = Topology::synthetic("pack:1 pu:3").unwrap();
        assert_eq!(machine.cores().len(), 3);
        assert_eq!(units(&machine), [0, 1, 2]);
    }

    /// As a cpuset or an affinity mask does: units 1, 2 and 6 of eight are left.
    #[test]
    fn a_restricted_machine_has_what_is_left() {
        let mut hwloc = Hwloc::builder()
            .from_synthetic("numa:2 core:2 pu:2")
            .unwrap()
            .build()
            .unwrap();
        let left: CpuSet = [1, 2, 6]
            .into_iter()
            .map(|unit| hwlocality::bitmap::BitmapIndex::try_from(unit).unwrap())
            .collect();
        hwloc.edit(|editor| editor.restrict(&left, RestrictFlags::empty()).unwrap());
        let machine = Topology::from_hwloc(hwloc);
        let expected = [(vec![1], 0), (vec![2], 0), (vec![6], 1)];
        let expected = expected.map(|(units, node)| Core { units, node });
        assert_eq!(machine.cores(), expected);
        assert_eq!(units(&machine), [1, 2, 6]);
    }

    #[test]
    fn binding_on_a_synthetic_machine_is_not_pretended() {
        let machine = Topology::synthetic("core:2 pu:1").unwrap();
        assert!(!machine.bind_current_thread(0));
    }

    #[test]
    fn a_bad_description_is_a_typed_error() {
        let error = Topology::synthetic("two of everything").unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains("two of everything"), "{error}");
    }
}
