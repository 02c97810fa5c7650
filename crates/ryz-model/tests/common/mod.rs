//! Running reference models and reading their goldens.
#![allow(dead_code, reason = "each test binary uses a part")]

pub mod goldens;

use std::{
    ops::{ControlFlow, Range},
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use ryz_kernels::{KernelOptions, Kernels, Level, Packing};
use ryz_kvcache::{BLOCK_TOKENS, BlockId, BlockPool, KvCache, KvCacheConfig, KvDType, Window};
use ryz_model::{
    Activations, BatchSequence, HeadScreening, HeadType, LoadOptions, LogitDemand, Model,
    ModelSource, Outputs, RunState, ScreenedHead,
};
use ryz_numa::{Lease, LeaseOptions, Pinning, Topology};
use ryz_profile::LayerActivity;
use ryz_tmac::{Arena, ArenaConfig};
use serde_json::Value;

/// Positions that a runner's cache holds.
pub const CONTEXT: usize = 512;

/// Folders of reference sets that are there: the committed one, and the whole one beside the repository.
pub fn reference_folders() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let committed = root.join("__test__/fixtures/reference");
    let whole = root.join("../shared/reference");
    if whole.is_dir() {
        vec![committed, whole]
    } else {
        eprintln!(
            "SKIPPED: the whole reference set, {} is not there",
            whole.display()
        );
        vec![committed]
    }
}

/// How a model is run.
#[derive(Clone, Copy)]
pub struct Setup {
    pub activations: Activations,
    pub kv: KvDType,
    pub level: Level,
    /// How the kernels are used.
    pub options: KernelOptions,
    pub threads: usize,
    /// The most tokens of one step.
    pub chunk: usize,
    /// A made-up machine, in hwloc's synthetic form, on which the threads are placed.
    pub machine: Option<&'static str>,
    /// Whether products leave zeroes out.
    pub sparsity: bool,
    pub packing: Packing,
    /// What the output matrix is multiplied as.
    pub head: HeadType,
    /// Whether rows of it are left out.
    pub head_screening: HeadScreening,
    /// What a step reads a layer that threads share.
    pub parallel_from: usize,
}

impl Setup {
    pub fn exact(activations: Activations) -> Self {
        Self {
            activations,
            kv: KvDType::F32,
            level: Level::detect(),
            options: KernelOptions::default(),
            threads: 2,
            chunk: 512,
            machine: None,
            sparsity: true,
            packing: Packing::TwoBits,
            head: HeadType::File,
            head_screening: HeadScreening::Off,
            parallel_from: 0,
        }
    }
}

/// A model with a cache for one sequence.
pub struct Runner {
    pub model: Model,
    /// What its sequence sees.
    pub window: Option<Window>,
    pub lease: Lease,
    state: RunState,
    cache: KvCache,
    pool: BlockPool,
    blocks: Vec<BlockId>,
    chunk: usize,
}

impl Runner {
    pub fn load(path: &Path, setup: Setup) -> Self {
        let lease = match setup.machine {
            None => Lease::new(setup.threads, Pinning::Off).unwrap(),
            Some(machine) => {
                let options = LeaseOptions {
                    threads: Some(setup.threads),
                    ..LeaseOptions::default()
                };
                let lease = Lease::on(Topology::synthetic(machine).unwrap(), options).unwrap();
                assert!(lease.memory_nodes().len() > 1, "{machine} is one node");
                lease
            }
        };
        Self::load_on(path, setup, lease)
    }

    /// [`Runner::load`] with threads that were leased.
    pub fn load_on(path: &Path, setup: Setup, lease: Lease) -> Self {
        let arena = Arena::new(ArenaConfig::default());
        let source = ModelSource::open(path).unwrap();
        let kernels = Kernels::new(setup.level)
            .unwrap()
            .with_options(setup.options);
        let options = LoadOptions {
            kernels,
            activations: Some(setup.activations),
            sparsity: setup.sparsity,
            packing: setup.packing,
            head: setup.head,
            head_screening: setup.head_screening,
            parallel_from: setup.parallel_from,
            ..LoadOptions::default()
        };
        let model = Model::load(&source, &options, &arena, &lease, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
        let config = model.config();
        let cache = KvCache::new(
            &arena,
            KvCacheConfig {
                layers: config.num_hidden_layers,
                kv_heads: config.num_key_value_heads,
                key_dim: config.key_head_dim,
                value_dim: config.value_head_dim,
                dtype: setup.kv,
                blocks: CONTEXT / BLOCK_TOKENS,
                tails: 2,
            },
        );
        let state = RunState::new(&model, &arena, setup.chunk, setup.chunk).unwrap();
        let mut pool = BlockPool::new(CONTEXT / BLOCK_TOKENS);
        let blocks = std::iter::from_fn(|| pool.allocate()).collect();
        Self {
            model,
            window: None,
            lease,
            state,
            cache: cache.unwrap(),
            pool,
            blocks,
            chunk: setup.chunk,
        }
    }

    /// Makes the buffers anew, for what the model has been told since.
    pub fn renew(&mut self) {
        let arena = Arena::new(ArenaConfig::default());
        self.state = RunState::new(&self.model, &arena, self.chunk, self.chunk).unwrap();
    }

    /// [`Model::settle_order`].
    pub fn settle_order(&mut self) -> bool {
        self.model.settle_order(&mut self.state)
    }

    /// Logits of every new token; `start` tokens are cached.
    pub fn extend(&mut self, tokens: &[u32], start: usize) -> Vec<Vec<f32>> {
        let mut logits = Vec::new();
        for (index, chunk) in tokens.chunks(self.chunk).enumerate() {
            let batch = [BatchSequence {
                tokens: chunk,
                start: start + index * self.chunk,
                block_table: &self.blocks,
                window: self.window,
                mass: None,
                needed: LogitDemand::All,
                outputs: Outputs::All,
            }];
            let cancel = AtomicBool::new(false);
            self.model
                .forward(
                    &self.lease,
                    &mut self.state,
                    &mut self.cache,
                    &batch,
                    &cancel,
                )
                .unwrap();
            let rows = self.state.logits();
            logits.extend((0..rows.rows()).map(|row| rows.row(row).to_vec()));
        }
        logits
    }

    /// Decodes one token; `start` tokens are cached.
    pub fn decode(&mut self, token: u32, start: usize) {
        self.decode_for(token, start, LogitDemand::All);
    }

    /// [`Runner::decode`], for logits that are needed.
    pub fn decode_for(&mut self, token: u32, start: usize, needed: LogitDemand) {
        let batch = [BatchSequence {
            tokens: &[token],
            start,
            block_table: &self.blocks,
            window: self.window,
            mass: None,
            needed,
            outputs: Outputs::Last,
        }];
        let (state, cache) = (&mut self.state, &mut self.cache);
        let cancel = AtomicBool::new(false);
        self.model
            .forward(&self.lease, state, cache, &batch, &cancel)
            .unwrap();
    }

    /// Logits of the new tokens of `sequences`, each with how many of them are cached and which logits it needs, computed as one
    /// step. Blocks are by turns theirs.
    pub fn batch(
        &mut self,
        sequences: &[(&[u32], usize, LogitDemand)],
        outputs: Outputs,
    ) -> Vec<Vec<f32>> {
        let share = self.blocks.len() / sequences.len();
        let parts = sequences.iter().zip(self.blocks.chunks(share));
        let batch = parts.map(|(&(tokens, start, needed), block_table)| BatchSequence {
            tokens,
            start,
            block_table,
            window: None,
            mass: None,
            outputs,
            needed,
        });
        let batch: Vec<_> = batch.collect();
        let (state, cache) = (&mut self.state, &mut self.cache);
        let cancel = AtomicBool::new(false);
        self.model
            .forward(&self.lease, state, cache, &batch, &cancel)
            .unwrap();
        let rows = self.state.logits();
        (0..rows.rows()).map(|row| rows.row(row).to_vec()).collect()
    }

    /// What the steps since the last call left out of the head.
    pub fn screened(&mut self) -> ScreenedHead {
        self.state.take_screened()
    }

    /// Has the phases of the next steps recorded.
    pub fn record(&mut self) {
        self.state.clock().set_recording(true, 0);
    }

    /// What each layer did since.
    pub fn activity(&mut self) -> Vec<LayerActivity> {
        self.state.take_activity().collect()
    }

    /// Takes some blocks out of the sequence and changes the bytes of those behind them.
    pub fn without(&mut self, gone: Range<usize>, change: impl Fn(&mut [u8], &Self)) {
        let start = gone.start;
        for block in self.blocks.drain(gone) {
            self.pool.release(block);
        }
        let mut bytes = vec![0; self.cache.address().1];
        for index in start..self.blocks.len() {
            let block = self.blocks[index];
            self.cache.reader().copy_block(block, &mut bytes);
            change(&mut bytes, self);
            self.cache.write_block(block, &bytes);
        }
    }

    /// Gives the first `count` blocks away, so that the sequence lies behind a hole.
    pub fn leave_a_hole(&mut self, count: usize) {
        for block in self.blocks.drain(..count) {
            self.pool.release(block);
        }
    }

    /// Keeps the blocks that `tokens` positions need, moves them together and gives the rest of the memory back: where each
    /// was, and is.
    pub fn compact(&mut self, tokens: usize) -> Vec<(usize, usize)> {
        for block in self.blocks.drain(tokens.div_ceil(BLOCK_TOKENS)..) {
            self.pool.release(block);
        }
        let addresses = |runner: &Self| -> Vec<usize> {
            let (start, bytes) = runner.cache.address();
            let blocks = runner.blocks.iter();
            blocks.map(|block| start + block.index() * bytes).collect()
        };
        let before = addresses(self);
        let moves = self.pool.compact();
        self.cache.move_blocks(&moves);
        for block in &mut self.blocks {
            if let Some(moved) = moves.iter().find(|moved| moved.from == *block) {
                *block = moved.to;
            }
        }
        self.cache.discard(self.pool.trim());
        before.into_iter().zip(addresses(self)).collect()
    }

    /// Takes blocks for `tokens` positions.
    pub fn grow(&mut self, tokens: usize) {
        while self.blocks.len() < tokens.div_ceil(BLOCK_TOKENS) {
            self.blocks.push(self.pool.allocate().unwrap());
        }
    }

    /// Logits of every position of a fresh sequence.
    pub fn logits(&mut self, tokens: &[u32]) -> Vec<Vec<f32>> {
        self.extend(tokens, 0)
    }

    /// Greedy continuation, the lowest id among equals.
    pub fn greedy(&mut self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut last = self.logits(prompt).pop().unwrap();
        let mut ids = Vec::new();
        while ids.len() < count {
            let best =
                (0..last.len()).fold(0, |best, id| if last[id] > last[best] { id } else { best });
            ids.push(best as u32);
            last = self
                .extend(&[best as u32], prompt.len() + ids.len() - 1)
                .pop()
                .unwrap();
        }
        ids
    }
}

/// A golden file's fields.
pub struct Golden(pub Value);

impl Golden {
    pub fn all(folder: &Path) -> Vec<(String, Self)> {
        let mut goldens: Vec<_> = std::fs::read_dir(folder.join("golden"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
                (
                    path.file_stem().unwrap().to_string_lossy().into_owned(),
                    Self(value),
                )
            })
            .collect();
        goldens.sort_by(|a, b| a.0.cmp(&b.0));
        goldens
    }

    /// The GGUF files and Hugging Face folders in `folder` that compute this function.
    pub fn files(&self, folder: &Path) -> Vec<PathBuf> {
        let files = self.0["files"].as_array().unwrap().iter();
        files
            .map(|file| folder.join(file["file"].as_str().unwrap().trim_end_matches('/')))
            .filter(|path| {
                path.extension().is_none_or(|extension| extension != "xz") && path.exists()
            })
            .collect()
    }
}

pub fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

pub fn floats(value: &Value) -> Vec<f64> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|x| x.as_f64().unwrap())
        .collect()
}

/// The greatest |got − expected|, NaN counting as infinite.
pub fn max_difference(got: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let differences = got
        .iter()
        .zip(expected)
        .map(|(got, expected)| (f64::from(*got) - expected).abs());
    differences.fold(0.0, |max, d| {
        if d.is_nan() {
            f64::INFINITY
        } else {
            max.max(d)
        }
    })
}

/// Mean of −log softmax(logits[i])[ids[i+1]].
pub fn mean_nll(logits: &[Vec<f32>], ids: &[u32]) -> f64 {
    let terms = logits.iter().zip(&ids[1..]).map(|(row, &next)| {
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|&x| f64::from(x - max).exp()).sum();
        sum.ln() - f64::from(row[next as usize] - max)
    });
    terms.sum::<f64>() / (ids.len() - 1) as f64
}

/// Notes how many inputs of a kind ran, for the summary of `npm test`.
pub fn note_ran(kind: &str, ran: usize, skipped: usize) {
    let Some(path) = std::env::var_os("RYZ_TEST_COUNTS") else {
        return;
    };
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.create(true).append(true).open(path).unwrap();
    let line = format!("{{\"kind\":\"{kind}\",\"ran\":{ran},\"skipped\":{skipped}}}\n");
    std::io::Write::write_all(&mut file, line.as_bytes()).unwrap();
}
