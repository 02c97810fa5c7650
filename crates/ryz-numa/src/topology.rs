//! The machine's processing units, and those that this process may use.

use std::panic::catch_unwind;

use hwlocality::{
    Topology as Hwloc,
    bitmap::{Bitmap, BitmapIndex},
    cpu::{binding::CpuBindingFlags, cpuset::CpuSet, kind::CpuKind},
    memory::{
        binding::{MemoryBindingFlags, MemoryBindingPolicy},
        nodeset::NodeSet,
    },
    object::{TopologyObject, types::ObjectType},
    topology::builder::BuildFlags,
};

use crate::{TopologyError, error::panic_message};

/// A core: processing units that share one execution engine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Core {
    /// Operating-system indices of its processing units that this process may use; threads are
    /// pinned to the first.
    pub units: Vec<usize>,
    /// Operating-system index of the memory node nearest to it.
    pub node: usize,
    /// Index of the L3 cache that it shares with its neighbours, counted over the machine; `None`
    /// if there is none.
    pub l3: Option<usize>,
    /// Its efficiency class if cores differ: 0 saves the most energy, higher ones are faster.
    pub efficiency: Option<usize>,
    /// Whether steps should use it: a core much slower than the others makes them wait.
    pub is_fast: bool,
}

/// The cores that this process may use.
#[derive(Debug)]
pub struct Topology {
    hwloc: Hwloc,
    cores: Vec<Core>,
    nodes: Vec<usize>,
}

impl Topology {
    /// Reads this machine's topology, which takes milliseconds.
    ///
    /// # Errors
    /// [`TopologyError::Unreadable`] and [`TopologyError::Panicked`], because the machine's data is
    /// external input.
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
                // Respects the affinity mask as well as the cpuset; discovery moves no thread.
                BuildFlags::ASSUME_THIS_SYSTEM
                    | BuildFlags::RESTRICT_CPU_TO_THIS_PROCESS
                    | BuildFlags::DONT_CHANGE_BINDING,
            )
            .map_err(unreadable)?
            .build()
            .map_err(unreadable)?;
        Ok(Self::from_hwloc(hwloc))
    }

    /// A simulated machine in hwloc's synthetic form, such as `numa:2 core:4 pu:2`, to test
    /// placement decisions.
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

    /// The machine in a file written by hwloc's `lstopo machine.xml`, to test placement decisions.
    ///
    /// # Errors
    /// [`TopologyError::InvalidXml`].
    pub fn from_xml(xml: &str) -> Result<Self, TopologyError> {
        let invalid = |reason: String| TopologyError::InvalidXml { reason };
        let builder = Hwloc::builder().from_xml(xml);
        let builder = builder.map_err(|error| invalid(error.to_string()))?;
        let hwloc = builder
            .build()
            .map_err(|error| invalid(error.to_string()))?;
        Ok(Self::from_hwloc(hwloc))
    }

    fn from_hwloc(hwloc: Hwloc) -> Self {
        let allowed: Vec<usize> = hwloc.allowed_cpuset().iter_set().map(usize::from).collect();
        // A core whose local memory is not allowed uses any allowed node.
        let memory = hwloc.allowed_nodeset().first_set().map_or(0, usize::from);
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
                    .map_or(memory, usize::from);
                Some(Core {
                    units,
                    node,
                    l3: core
                        .first_ancestor_with_type(ObjectType::L3Cache)
                        .map(TopologyObject::logical_index),
                    efficiency: None,
                    is_fast: true,
                })
            })
            .filter(|core| !core.units.is_empty())
            .collect();
        if cores.is_empty() {
            // Some virtual machines report no cores; treat each processing unit as one.
            cores = allowed
                .into_iter()
                .map(|unit| Core {
                    units: vec![unit],
                    node: memory,
                    l3: None,
                    efficiency: None,
                    is_fast: true,
                })
                .collect();
        }
        classify(&hwloc, &mut cores);
        let mut nodes: Vec<usize> = cores.iter().map(|core| core.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        Self {
            hwloc,
            cores,
            nodes,
        }
    }

    /// Identification of the first processor, as far as available: maker, family, model, stepping
    /// and name.
    pub fn processor(&self) -> String {
        const NAMES: [&str; 5] = [
            "CPUVendor",
            "CPUFamilyNumber",
            "CPUModelNumber",
            "CPUStepping",
            "CPUModel",
        ];
        let mut packages = self.hwloc.objects_with_type(ObjectType::Package);
        let first = packages.next().unwrap_or(self.hwloc.root_object());
        let values = NAMES.into_iter().filter_map(|name| first.info(name));
        let values: Vec<_> = values.map(|value| value.to_string_lossy()).collect();
        values.join(" ")
    }

    /// Operating-system indices of the memory nodes near usable cores, ascending.
    pub fn nodes(&self) -> &[usize] {
        &self.nodes
    }

    /// The usable cores, in hwloc's order: neighbours share caches.
    pub fn cores(&self) -> &[Core] {
        &self.cores
    }

    /// Number of usable processing units.
    pub fn units(&self) -> usize {
        self.cores.iter().map(|core| core.units.len()).sum()
    }

    /// The usable processing units near a memory node.
    pub fn units_of(&self, node: usize) -> Vec<usize> {
        let cores = self.cores.iter().filter(|core| core.node == node);
        cores.flat_map(|core| core.units.iter().copied()).collect()
    }

    /// Binds the calling thread to a set of processing units and returns whether it succeeded. Does
    /// nothing if this topology is not this machine, or if the system refuses; an unbound thread is
    /// slower but correct.
    pub fn bind_current_thread(&self, units: &[usize]) -> bool {
        if !self.hwloc.is_this_system() || units.is_empty() {
            return false;
        }
        let Some(cpuset) = bitmap(units) else {
            return false;
        };
        self.hwloc
            .bind_cpu(&CpuSet::from(cpuset), CpuBindingFlags::THREAD)
            .is_ok()
    }

    /// Requests that untouched pages of `bytes` be allocated on `nodes`: on the single node, or
    /// interleaved over several. Returns whether the system agreed. On another machine's topology,
    /// in a container without permission, or on an unsupported system, pages reside where they are
    /// first touched.
    pub fn bind_memory(&self, bytes: &[u8], nodes: &[usize]) -> bool {
        if !self.hwloc.is_this_system() || nodes.is_empty() {
            return false;
        }
        let Some(nodeset) = bitmap(nodes) else {
            return false;
        };
        let policy = match nodes {
            [_] => MemoryBindingPolicy::Bind,
            _ => MemoryBindingPolicy::Interleave,
        };
        let flags = MemoryBindingFlags::empty();
        self.hwloc
            .bind_memory_area(bytes, &NodeSet::from(nodeset), policy, flags)
            .is_ok()
    }
}

/// A bitmap of those indices; `None` if one is out of range.
fn bitmap(indices: &[usize]) -> Option<Bitmap> {
    let indices = indices.iter().map(|&index| BitmapIndex::try_from(index));
    indices.collect::<Result<Bitmap, _>>().ok()
}

/// Sets the efficiency classes if the cores have several, and decides which cores are fast: those
/// named by the maker, or else all but the lowest class.
fn classify(hwloc: &Hwloc, cores: &mut [Core]) {
    let Ok(kinds) = hwloc.cpu_kinds() else {
        return;
    };
    let kinds: Vec<CpuKind<'_>> = kinds.collect();
    let of = |core: &Core| {
        let unit = BitmapIndex::try_from(*core.units.first()?).ok()?;
        kinds.iter().find(|kind| kind.cpuset.is_set(unit))
    };
    let is_named = |kind: &CpuKind<'_>| {
        let mut infos = kind.infos.iter();
        infos.any(|info| info.name() == c"CoreType" && info.value() == c"IntelCore")
    };
    let used: Vec<Option<&CpuKind<'_>>> = cores.iter().map(of).collect();
    let lowest = used.iter().flatten().filter_map(|kind| kind.efficiency);
    let (lowest, highest) = (lowest.clone().min(), lowest.max());
    if lowest == highest {
        return;
    }
    let named = used.iter().flatten().any(|kind| is_named(kind));
    for (core, kind) in cores.iter_mut().zip(used) {
        core.efficiency = kind.and_then(|kind| kind.efficiency);
        core.is_fast = match kind {
            Some(kind) if named => is_named(kind),
            _ => core.efficiency != lowest,
        };
    }
}

fn unreadable(source: impl std::error::Error + Send + Sync + 'static) -> TopologyError {
    TopologyError::Unreadable {
        source: Box::new(source),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use hwlocality::topology::{editor::RestrictFlags, export::xml::XMLExportFlags};

    use super::*;

    fn synthetic(description: &str) -> Hwloc {
        let builder = Hwloc::builder().from_synthetic(description).unwrap();
        builder.build().unwrap()
    }

    fn cpuset(units: impl IntoIterator<Item = usize>) -> CpuSet {
        let units: Vec<usize> = units.into_iter().collect();
        CpuSet::from(bitmap(&units).unwrap())
    }

    /// A machine restricted to `units` by a cpuset or an affinity mask.
    pub fn restricted(description: &str, units: &[usize]) -> Topology {
        let mut hwloc = synthetic(description);
        let left = cpuset(units.iter().copied());
        hwloc.edit(|editor| editor.restrict(&left, RestrictFlags::empty()).unwrap());
        Topology::from_hwloc(hwloc)
    }

    /// Four fast cores of two units (0 to 7) and four slow ones of one unit (8, 10, 12, 14), read
    /// from a file and distinguished by `core_types` and efficiency classes.
    pub fn hybrid(core_types: [&str; 2]) -> Topology {
        let mut hwloc = synthetic("l3:1 core:8 pu:2");
        hwloc.edit(|editor| {
            let all = cpuset((0..8).chain([8, 10, 12, 14]));
            editor.restrict(&all, RestrictFlags::empty()).unwrap();
            let slow = cpuset([8, 10, 12, 14]);
            let [slow_type, fast_type] = core_types.map(|name| [("CoreType", name)]);
            editor.register_cpu_kind(&slow, Some(0), slow_type).unwrap();
            let fast = cpuset(0..8);
            editor.register_cpu_kind(&fast, Some(1), fast_type).unwrap();
        });
        let xml = hwloc.export_xml(XMLExportFlags::empty()).unwrap();
        Topology::from_xml(xml.as_str()).unwrap()
    }

    pub fn two_nodes_smt() -> Topology {
        Topology::from_xml(include_str!("../tests/machines/two-nodes-smt.xml")).unwrap()
    }

    pub fn four_nodes() -> Topology {
        Topology::from_xml(include_str!("../tests/machines/four-nodes.xml")).unwrap()
    }

    pub fn restricted_eight_nodes() -> Topology {
        Topology::from_xml(include_str!("../tests/machines/restricted-eight-nodes.xml")).unwrap()
    }

    pub fn two_kinds_of_memory() -> Topology {
        Topology::from_xml(include_str!("../tests/machines/two-kinds-of-memory.xml")).unwrap()
    }

    fn nodes(machine: &Topology) -> Vec<usize> {
        machine.cores().iter().map(|core| core.node).collect()
    }

    #[test]
    fn siblings_nodes_and_caches_are_told_apart() {
        let machine = Topology::synthetic("numa:2 l3:2 core:2 pu:2").unwrap();
        assert_eq!((machine.cores().len(), machine.units()), (8, 16));
        assert_eq!(machine.nodes(), [0, 1]);
        assert_eq!(nodes(&machine), [0, 0, 0, 0, 1, 1, 1, 1]);
        let l3: Vec<_> = machine.cores().iter().flat_map(|core| core.l3).collect();
        assert_eq!(l3, [0, 0, 1, 1, 2, 2, 3, 3]);
        assert_eq!(machine.cores()[3].units, [6, 7]);
        assert!(
            machine
                .cores()
                .iter()
                .all(|core| core.is_fast && core.efficiency.is_none())
        );
    }

    #[test]
    fn one_core_is_a_machine() {
        let machine = Topology::synthetic("pu:1").unwrap();
        assert_eq!((machine.cores().len(), machine.units()), (1, 1));
        assert_eq!((machine.nodes(), machine.cores()[0].l3), (&[0][..], None));
    }

    #[test]
    fn a_machine_that_shows_no_cores_has_one_for_each_unit() {
        let machine = Topology::synthetic("pack:1 pu:3").unwrap();
        let units: Vec<_> = machine
            .cores()
            .iter()
            .flat_map(|core| &core.units)
            .collect();
        assert_eq!(units, [&0, &1, &2]);
    }

    #[test]
    fn a_restricted_machine_has_what_is_left() {
        let machine = restricted("numa:2 core:2 pu:2", &[1, 2, 6]);
        let left: Vec<_> = machine
            .cores()
            .iter()
            .map(|core| (core.units.as_slice(), core.node))
            .collect();
        assert_eq!(left, [(&[1][..], 0), (&[2], 0), (&[6], 1)]);
    }

    /// Two Xeons with eight cores and sixteen units each.
    #[test]
    fn a_file_of_two_nodes_with_siblings() {
        let machine = two_nodes_smt();
        assert_eq!((machine.cores().len(), machine.units()), (16, 32));
        assert_eq!(machine.nodes(), [0, 1]);
        assert_eq!(nodes(&machine), [[0; 8], [1; 8]].concat());
        let l3: Vec<_> = machine.cores().iter().flat_map(|core| core.l3).collect();
        assert_eq!(l3, [[0; 8], [1; 8]].concat());
    }

    /// Two Xeons with fourteen cores each in two clusters, without siblings.
    #[test]
    fn a_file_of_four_nodes() {
        let machine = four_nodes();
        assert_eq!((machine.cores().len(), machine.units()), (28, 28));
        assert_eq!(machine.nodes(), [0, 1, 2, 3]);
        for node in 0..4 {
            let cores = machine.cores().iter().filter(|core| core.node == node);
            assert_eq!(cores.count(), 7, "node {node}");
        }
    }

    /// Eight Opterons, restricted by a cpuset to some of the processors of 0, 1, 2, 3, 6 and 7 and
    /// to the memory of 1 to 5.
    #[test]
    fn a_file_of_a_cpuset_that_parts_cores_from_their_memory() {
        let machine = restricted_eight_nodes();
        let units: Vec<_> = machine
            .cores()
            .iter()
            .flat_map(|core| &core.units)
            .collect();
        assert_eq!(units, [&0, &1, &2, &3, &5, &6, &12, &13, &14, &15]);
        // The processors of 0, 6 and 7 have no local memory: they get the first allowed node.
        assert_eq!(nodes(&machine), [1, 1, 1, 1, 2, 3, 1, 1, 1, 1]);
        assert_eq!(machine.nodes(), [1, 2, 3]);
    }

    /// Each of four clusters has regular memory (nodes 0 to 3) and a small fast one (4 to 7).
    #[test]
    fn a_file_with_two_kinds_of_memory_takes_the_plain_one() {
        let machine = two_kinds_of_memory();
        assert_eq!(machine.nodes(), [0, 1, 2, 3]);
    }

    #[test]
    fn slow_cores_are_known_by_class_or_by_name() {
        for core_types in [["little", "big"], ["IntelAtom", "IntelCore"]] {
            let machine = hybrid(core_types);
            let found: Vec<_> = machine
                .cores()
                .iter()
                .map(|core| (core.units.len(), core.efficiency, core.is_fast))
                .collect();
            let (fast, slow) = ((2, Some(1), true), (1, Some(0), false));
            assert_eq!(found, [[fast; 4], [slow; 4]].concat());
        }
    }

    /// Three classes: two small units, one of a bigger core, one named fast by the maker.
    #[test]
    fn of_three_classes_the_named_one_is_fast() {
        let mut hwloc = synthetic("core:4 pu:1");
        hwloc.edit(|editor| {
            let kinds = [
                (0..2, "IntelAtom"),
                (2..3, "IntelAtom"),
                (3..4, "IntelCore"),
            ];
            for (class, (units, name)) in kinds.into_iter().enumerate() {
                let units = cpuset(units);
                let infos = [("CoreType", name)];
                editor
                    .register_cpu_kind(&units, Some(class), infos)
                    .unwrap();
            }
        });
        let machine = Topology::from_hwloc(hwloc);
        let fast: Vec<_> = machine.cores().iter().map(|core| core.is_fast).collect();
        assert_eq!(fast, [false, false, false, true]);
    }

    #[test]
    fn binding_on_a_made_up_machine_is_not_pretended() {
        let machine = Topology::synthetic("numa:2 core:2 pu:1").unwrap();
        assert!(!machine.bind_current_thread(&[0]));
        assert!(!machine.bind_memory(&[0; 4096], &[0]));
    }

    /// On this machine: asks the system where the pages are.
    #[test]
    fn bound_memory_lies_where_it_should() {
        let machine = Topology::detect().unwrap();
        for &node in machine.nodes() {
            let mut bytes = vec![0u8; 4 << 20];
            if !machine.bind_memory(&bytes[4096..], &[node]) {
                eprintln!("SKIPPED: this system does not let memory be bound");
                return;
            }
            bytes.fill(1);
            let flags = MemoryBindingFlags::empty();
            let inside = &bytes[8192..bytes.len() - 8192];
            let found: NodeSet = machine.hwloc.area_memory_location(inside, flags).unwrap();
            let found: Vec<_> = found.iter_set().map(usize::from).collect();
            assert_eq!(found, [node]);
        }
    }

    #[test]
    fn bad_descriptions_are_typed_errors() {
        let error = Topology::synthetic("two of everything").unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT");
        assert!(error.to_string().contains("two of everything"), "{error}");
        for xml in ["", "<topology>", "no machine", "a\0b"] {
            let error = Topology::from_xml(xml).unwrap_err();
            assert!(matches!(error, TopologyError::InvalidXml { .. }), "{xml}");
            assert_eq!(error.code(), "INVALID_ARGUMENT");
        }
    }
}
