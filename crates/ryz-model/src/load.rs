//! Reading weights: from a file's blocks into the arena, packed for the kernels.

use std::{
    collections::HashSet,
    fmt,
    ops::ControlFlow,
    str::FromStr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ryz_format::{
    Architecture, DType, HiddenAct, ModelConfig, TensorInfo, TensorRole, TensorView, WeightScales,
    decode, encode,
};
use ryz_kernels::{
    Activation, DenseWeight, Kernels, Linear, PackedTernary, QuantizedLayout, ROW_TILE,
    TernaryPacker,
};
use ryz_numa::{Lease, WorkQueue};
use ryz_tmac::{AlignedVec, Arena, BufferKind};

use crate::{
    ModelError, ModelSource,
    place::{Reservations, Reserved},
    rope::RopeAngles,
    weights::{LayerWeights, Projection, Weights},
};

/// Bytes of a tensor that are staged at a time on their way into packed form.
const STAGE_BYTES: usize = 4 << 20;

/// How the inputs of the seven projections of a layer are quantised. The head always reads f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Activations {
    /// int8, one scale per token: BitNet's definition, and the default for its architectures.
    Int8,
    /// int8, one scale for each group of the weights' scale groups, for ternary weights; dense weights read f32. The
    /// default for models whose activations were float in training.
    Int8Group,
    /// f32: the exactness path.
    F32,
}

impl Activations {
    /// Every choice.
    pub const ALL: [Self; 3] = [Self::Int8, Self::Int8Group, Self::F32];

    /// The name in options.
    pub fn name(self) -> &'static str {
        match self {
            Self::Int8 => "int8",
            Self::Int8Group => "int8-group",
            Self::F32 => "f32",
        }
    }

    /// What a model was trained with.
    pub fn default_for(architecture: Architecture) -> Self {
        match architecture {
            Architecture::BitnetB158 | Architecture::Bitnet => Self::Int8,
            _ => Self::Int8Group,
        }
    }

    /// The form in which a projection of weights of `dtype` reads its `cols` inputs; `None` for f32.
    pub(crate) fn form(self, dtype: DType, cols: usize) -> Option<QuantizedLayout> {
        match self {
            Self::F32 => None,
            Self::Int8 => Some(QuantizedLayout::per_token(cols)),
            Self::Int8Group if !dtype.is_ternary() => None,
            Self::Int8Group if dtype.has_tensor_scale() => Some(QuantizedLayout::per_token(cols)),
            Self::Int8Group => Some(QuantizedLayout::per_group(cols, dtype.block_values())),
        }
    }
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Activations {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|choice| choice.name() == name);
        found.ok_or_else(|| ModelError::UnknownActivations {
            got: name.to_owned(),
        })
    }
}

/// Options of [`Model::load`].
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// The instructions to use.
    pub kernels: Kernels,
    /// How inputs are quantised; `None` for what the architecture was trained with ([`Activations::default_for`]).
    pub activations: Option<Activations>,
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of tensors read.
    pub done_bytes: u64,
    /// Bytes of tensors in all.
    pub total_bytes: u64,
}

/// A loaded model: immutable, shared by reference.
#[derive(Debug)]
pub struct Model {
    pub(crate) config: ModelConfig,
    pub(crate) weights: Weights,
    pub(crate) angles: RopeAngles,
    pub(crate) kernels: Kernels,
    pub(crate) activation: Activation,
    /// 1/√key_head_dim
    pub(crate) attention_scale: f32,
    activations: Activations,
}

impl Model {
    /// Reads and packs all weights, on the threads of `lease`.
    ///
    /// `progress` is called on this thread's worker as tensors are done; [`ControlFlow::Break`] ends the load with
    /// [`ModelError::Aborted`].
    ///
    /// # Errors
    /// Faults of the file ([`ModelError::Tensor`], [`ModelError::Memory`]), memory refused, or the abort.
    pub fn load(
        source: &ModelSource,
        options: &LoadOptions,
        arena: &Arena,
        lease: &Lease,
        progress: &mut (dyn FnMut(LoadProgress) -> ControlFlow<()> + Send),
    ) -> Result<Self, ModelError> {
        let config = source.config().clone();
        let activations = options
            .activations
            .unwrap_or(Activations::default_for(config.architecture));
        let mut loader = Loader {
            source,
            kernels: options.kernels,
            arena,
            reserved: Arc::default(),
        };
        loader.reserve(lease)?;
        let linears = loader.linears(lease, progress)?;
        let weights = loader.assemble(&config, activations, linears)?;
        let factors = loader.vector("rope_freqs.weight")?;
        Ok(Self {
            angles: RopeAngles::new(&config.rope, config.rope_dim, factors.as_deref()),
            activation: match config.hidden_act {
                HiddenAct::Relu2 => Activation::Relu2,
                _ => Activation::Silu,
            },
            attention_scale: (1.0 / (config.key_head_dim as f64).sqrt()) as f32,
            kernels: options.kernels,
            weights,
            activations,
            config,
        })
    }

    /// What the model is.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// How inputs of projections are quantised.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// The kernels in use.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Bytes of all matrices as they are in memory.
    pub fn packed_bytes(&self) -> usize {
        self.weights.linears().map(Linear::packed_bytes).sum()
    }

    /// Bytes of matrices that one decoded token reads: all but the embedding, of which it reads one row (unless the
    /// embedding is the head too).
    pub fn weight_bytes_per_token(&self) -> usize {
        let embedding = &self.weights.embedding;
        let row = embedding.packed_bytes() / embedding.rows().max(1);
        let not_read = if self.weights.head.is_some() {
            embedding.packed_bytes() - row
        } else {
            0
        };
        self.packed_bytes() - not_read
    }

    /// Names of the kernel rows in use, each once.
    pub fn kernel_names(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        let projections = self
            .weights
            .layers
            .iter()
            .flat_map(LayerWeights::projections);
        let projections =
            projections.map(|projection| projection.weight.kernel_name(projection.form.is_some()));
        for name in projections.chain([self.weights.head().kernel_name(false)]) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// Whether a tensor's floats are masters that are made ternary on load.
pub(crate) fn is_master(config: &ModelConfig, role: TensorRole) -> bool {
    config.quantize_weights && role == TensorRole::Linear
}

/// Rows that are staged at a time: whole tiles, at most the tensor's own.
pub(crate) fn stage_rows(rows: usize, row_bytes: usize) -> usize {
    ((STAGE_BYTES / row_bytes.max(1) / ROW_TILE).max(1) * ROW_TILE).min(rows)
}

/// What reading a tensor needs.
struct Loader<'a> {
    source: &'a ModelSource,
    kernels: Kernels,
    arena: &'a Arena,
    /// Memory on the nodes whose threads will read it; on most machines there is one node, and nothing here.
    reserved: Arc<Reservations>,
}

/// Matrices by tensor index of the source.
type Linears = Vec<Option<Linear>>;

impl Loader<'_> {
    /// Takes the memory of all matrices at once, where it matters on which node it lies.
    fn reserve(&mut self, lease: &Lease) -> Result<(), ModelError> {
        if lease.memory_nodes().is_empty() {
            return Ok(());
        }
        let config = self.source.config();
        let mut reserved = Vec::new();
        for expected in config.expected_tensors() {
            let Some(tensor) = self.source.tensor(&expected.name) else {
                continue;
            };
            let matrix = match expected.role {
                TensorRole::Vector => continue,
                role if is_master(config, role) => {
                    Reserved::Ternary(self.packer(tensor, DType::HfPacked)?)
                }
                _ if tensor.dtype.is_ternary() => {
                    Reserved::Ternary(self.packer(tensor, tensor.dtype)?)
                }
                _ => {
                    let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
                    Reserved::Dense(self.arena.allocate(bytes, BufferKind::Weights)?)
                }
            };
            reserved.push((tensor.name.clone(), tensor.rows, matrix));
        }
        self.reserved = Arc::new(Reservations::place(lease, reserved)?);
        Ok(())
    }

    /// The memory that a ternary matrix of `dtype` is packed into.
    fn packer(&self, tensor: &TensorInfo, dtype: DType) -> Result<TernaryPacker, ModelError> {
        if let Some(Reserved::Ternary(packer)) = self.reserved.take(&tensor.name) {
            return Ok(packer);
        }
        let (name, rows, cols) = (&tensor.name, tensor.rows, tensor.cols);
        let packer = TernaryPacker::new(name, dtype, rows, cols, self.kernels, self.arena);
        packer.map_err(|source| ModelError::Tensor {
            path: self.source.file_of(tensor).path().to_owned(),
            source,
        })
    }

    /// Packs a matrix that is there as a whole.
    fn pack_whole(
        &self,
        tensor: &TensorInfo,
        view: &TensorView<'_>,
    ) -> Result<PackedTernary, ModelError> {
        let at = |source| ModelError::Tensor {
            path: self.source.file_of(tensor).path().to_owned(),
            source,
        };
        let mut packer = self.packer(tensor, view.dtype())?;
        for mut chunk in packer.chunks(view.rows().next_multiple_of(ROW_TILE)) {
            chunk.pack(view).map_err(at)?;
        }
        packer.finish(self.arena).map_err(at)
    }

    /// Reads all matrices; workers take tensors from a queue.
    fn linears(
        &self,
        lease: &Lease,
        progress: &mut (dyn FnMut(LoadProgress) -> ControlFlow<()> + Send),
    ) -> Result<Linears, ModelError> {
        let tensors = self.source.tensors();
        let expected = self.source.config().expected_tensors();
        let named = |is: fn(TensorRole) -> bool| -> HashSet<&str> {
            expected
                .iter()
                .filter(|tensor| is(tensor.role))
                .map(|tensor| tensor.name.as_str())
                .collect()
        };
        let matrices = named(|role| role != TensorRole::Vector);
        let projections = named(|role| role == TensorRole::Linear);
        let wanted = |tensor: &TensorInfo| matrices.contains(tensor.name.as_str());
        let total_bytes = tensors.iter().filter(|t| wanted(t)).map(|t| t.bytes).sum();
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let queue = WorkQueue::new();
        let failed = Mutex::new(None);
        let linears: Mutex<Linears> = Mutex::new((0..tensors.len()).map(|_| None).collect());
        let progress = Mutex::new(progress);
        lease.run(|worker| {
            while let Some(chunk) = queue.next(tensors.len(), 1) {
                let index = chunk.range().start;
                let tensor = &tensors[index];
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if !wanted(tensor) {
                    continue;
                }
                let role = match projections.contains(tensor.name.as_str()) {
                    true => TensorRole::Linear,
                    false => TensorRole::Embedding,
                };
                let loader = Loader {
                    arena: &self.arena.labelled(tensor.name.as_str()),
                    reserved: Arc::clone(&self.reserved),
                    ..*self
                };
                let read = if is_master(self.source.config(), role) {
                    loader.quantize_master(tensor)
                } else {
                    loader.linear(tensor, &stop)
                };
                match read {
                    Ok(linear) => lock(&linears)[index] = Some(linear),
                    Err(error) => {
                        lock(&failed).get_or_insert(error);
                        stop.store(true, Ordering::Relaxed);
                        return;
                    }
                }
                done.fetch_add(tensor.bytes, Ordering::Relaxed);
                if worker.index() == 0 {
                    let done_bytes = done.load(Ordering::Relaxed);
                    if lock(&progress)(LoadProgress {
                        done_bytes,
                        total_bytes,
                    })
                    .is_break()
                    {
                        lock(&failed).get_or_insert(ModelError::Aborted);
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        })?;
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        if lock(&progress)(LoadProgress {
            done_bytes: total_bytes,
            total_bytes,
        })
        .is_break()
        {
            return Err(ModelError::Aborted);
        }
        Ok(linears.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads one matrix.
    fn linear(&self, tensor: &TensorInfo, stop: &AtomicBool) -> Result<Linear, ModelError> {
        let file = self.source.file_of(tensor);
        let path = || file.path().to_owned();
        let at = |source| ModelError::Tensor {
            path: path(),
            source,
        };
        let malformed = |source| ModelError::Format {
            path: path(),
            source,
        };
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        if !tensor.dtype.is_ternary() {
            let blocks = match self.reserved.take(&tensor.name) {
                Some(Reserved::Dense(mut blocks)) => {
                    file.read_at(tensor.offset, blocks.as_bytes_mut())?;
                    blocks
                }
                _ => file.read_range(tensor.offset, bytes, self.arena, BufferKind::Weights)?,
            };
            let weight = DenseWeight::new(
                &tensor.name,
                tensor.dtype,
                tensor.rows,
                tensor.cols,
                blocks,
                self.kernels,
            )
            .map_err(at)?;
            return Ok(Linear::Dense(weight));
        }
        if tensor.dtype.is_prepacked() {
            return self.prepacked(tensor);
        }
        let row_bytes = tensor.dtype.row_bytes(tensor.cols);
        let Some(row_bytes) = row_bytes.filter(|_| tensor.dtype != DType::HfPacked) else {
            // Rows of a Hugging Face tensor are four to a byte, far apart: it is packed from the whole tensor.
            let staged = file.read_range(tensor.offset, bytes, self.arena, BufferKind::Staging)?;
            let scaled = TensorView::with_scale(
                &tensor.name,
                tensor.dtype,
                tensor.rows,
                tensor.cols,
                staged.as_bytes(),
                1.0,
            );
            let view = scaled.map_err(malformed)?;
            return Ok(Linear::Ternary(self.pack_whole(tensor, &view)?));
        };
        let mut scale = 1.0;
        if tensor.dtype.has_tensor_scale() {
            let mut tail = [0; 4];
            let tail_at = tensor.bytes - tensor.dtype.tail_bytes() as u64;
            file.read_at(tensor.offset + tail_at, &mut tail)?;
            scale = f32::from_le_bytes(tail);
        }
        let mut packer = self.packer(tensor, tensor.dtype)?;
        let rows = stage_rows(usize::MAX, row_bytes);
        let staged_rows = stage_rows(tensor.rows, row_bytes);
        let mut staged = self
            .arena
            .allocate(staged_rows * row_bytes, BufferKind::Staging)?;
        for mut chunk in packer.chunks(rows) {
            if stop.load(Ordering::Relaxed) {
                return Err(ModelError::Aborted);
            }
            let range = chunk.rows();
            let bytes = &mut staged.as_bytes_mut()[..range.len() * row_bytes];
            file.read_at(tensor.offset + (range.start * row_bytes) as u64, bytes)?;
            let view = TensorView::with_scale(
                &tensor.name,
                tensor.dtype,
                range.len(),
                tensor.cols,
                bytes,
                scale,
            );
            chunk.pack(&view.map_err(malformed)?).map_err(at)?;
        }
        Ok(Linear::Ternary(packer.finish(self.arena).map_err(at)?))
    }

    /// Reads a matrix that the file has as it is in memory.
    fn prepacked(&self, tensor: &TensorInfo) -> Result<Linear, ModelError> {
        let file = self.source.file_of(tensor);
        let at = |source| ModelError::Tensor {
            path: file.path().to_owned(),
            source,
        };
        let dtype = tensor.dtype;
        let mut packer = self.packer(tensor, dtype)?;
        let (lines, scales) = packer.prepacked_mut();
        file.read_at(tensor.offset, lines)?;
        let after = tensor.offset + lines.len() as u64;
        let mut scale = [0; 4];
        match dtype.has_tensor_scale() {
            true => file.read_at(after, &mut scale)?,
            false => file.read_at(after, scales)?,
        }
        let scale = f32::from_le_bytes(scale);
        let packed = packer.finish_prepacked(scale, self.arena).map_err(at)?;
        Ok(Linear::Ternary(packed))
    }

    /// Reads float master weights and makes them ternary, as BitNet's training does on every step.
    fn quantize_master(&self, tensor: &TensorInfo) -> Result<Linear, ModelError> {
        let file = self.source.file_of(tensor);
        let path = || file.path().to_owned();
        let (rows, cols) = (tensor.rows, tensor.cols);
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        let staged = file.read_range(tensor.offset, bytes, self.arena, BufferKind::Staging)?;
        let mut weights = self
            .arena
            .allocate_slice::<f32>(rows * cols, BufferKind::Staging)?;
        decode::decode_row(tensor.dtype, staged.as_bytes(), &mut weights);
        let mut codes = self.arena.allocate(rows * cols, BufferKind::Staging)?;
        let scale = encode::quantize_absmean(&weights, codes.as_bytes_mut());
        // Hugging Face's packing keeps the scale in f32 and takes any number of columns.
        let mut packed = self.arena.allocate(rows / 4 * cols, BufferKind::Staging)?;
        for (row, codes) in codes
            .as_bytes()
            .chunks_exact(cols)
            .enumerate()
            .take(rows / 4 * 4)
        {
            let (quarter, place) = (row / (rows / 4), row % (rows / 4));
            let out = &mut packed.as_bytes_mut()[place * cols..][..cols];
            out.iter_mut()
                .zip(codes)
                .for_each(|(out, code)| *out |= code << (2 * quarter));
        }
        let view = TensorView::with_scale(
            &tensor.name,
            DType::HfPacked,
            rows,
            cols,
            packed.as_bytes(),
            scale,
        );
        let view = view.map_err(|source| ModelError::Format {
            path: path(),
            source,
        })?;
        Ok(Linear::Ternary(self.pack_whole(tensor, &view)?))
    }

    /// Reads a vector of floats; `None` when the model has none of that name.
    fn vector(&self, name: &str) -> Result<Option<AlignedVec<f32>>, ModelError> {
        let Some(tensor) = self.source.tensor(name) else {
            return Ok(None);
        };
        let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
        let arena = self.arena.labelled(name);
        let staged = self.source.file_of(tensor).read_range(
            tensor.offset,
            bytes,
            &arena,
            BufferKind::Staging,
        )?;
        let mut values = arena.allocate_slice::<f32>(tensor.cols, BufferKind::Weights)?;
        decode::decode_row(tensor.dtype, staged.as_bytes(), &mut values);
        Ok(Some(values))
    }

    /// Puts the tensors in their places. The header was checked against the config, so that all of them are there.
    fn assemble(
        &self,
        config: &ModelConfig,
        activations: Activations,
        mut linears: Linears,
    ) -> Result<Weights, ModelError> {
        let mut linear = |name: &str| {
            let index = self
                .source
                .tensors()
                .iter()
                .position(|tensor| tensor.name == name);
            let found = index.and_then(|index| linears[index].take());
            found.unwrap_or_else(|| panic!("the header was checked to have {name}"))
        };
        let vector = |name: &str| {
            let found = self.vector(name)?;
            Ok::<_, ModelError>(
                found.unwrap_or_else(|| panic!("the header was checked to have {name}")),
            )
        };
        let optional = |there: bool, name: &str| {
            if there {
                vector(name).map(Some)
            } else {
                Ok(None)
            }
        };
        let mut projection =
            |layer: usize, name: &str, bias: bool| -> Result<Projection, ModelError> {
                let prefix = format!("blk.{layer}.{name}");
                let tensor = format!("{prefix}.weight");
                let dtype = self
                    .source
                    .tensor(&tensor)
                    .map_or(DType::F32, |tensor| tensor.dtype);
                let weight = linear(&tensor);
                let scale = match config.weight_scales {
                    WeightScales::None => None,
                    rule => self
                        .vector(&format!("{prefix}.scale"))?
                        .map(|scale| match rule {
                            WeightScales::Divide => 1.0 / scale[0],
                            _ => scale[0],
                        }),
                };
                // Masters that were quantised have one scale, like Hugging Face's packing.
                let quantized = matches!(weight, Linear::Ternary(_)) && !dtype.is_ternary();
                let dtype = if quantized { DType::HfPacked } else { dtype };
                let form = activations.form(dtype, weight.cols());
                let bias = if bias {
                    Some(vector(&format!("{prefix}.bias"))?)
                } else {
                    None
                };
                Ok(Projection {
                    weight,
                    scale,
                    bias,
                    form,
                })
            };
        let mut layers = Vec::with_capacity(config.num_hidden_layers);
        for layer in 0..config.num_hidden_layers {
            let name = |name: &str| format!("blk.{layer}.{name}.weight");
            layers.push(LayerWeights {
                attn_norm: vector(&name("attn_norm"))?,
                query: projection(layer, "attn_q", config.attention_bias)?,
                key: projection(layer, "attn_k", config.attention_bias)?,
                value: projection(layer, "attn_v", config.attention_bias)?,
                query_norm: optional(config.qk_norm, &name("attn_q_norm"))?,
                key_norm: optional(config.qk_norm, &name("attn_k_norm"))?,
                attn_sub_norm: optional(config.sub_norms, &name("attn_sub_norm"))?,
                output: projection(layer, "attn_output", config.attention_output_bias)?,
                ffn_norm: vector(&name("ffn_norm"))?,
                gate: projection(layer, "ffn_gate", false)?,
                up: projection(layer, "ffn_up", false)?,
                ffn_sub_norm: optional(config.sub_norms, &name("ffn_sub_norm"))?,
                down: projection(layer, "ffn_down", false)?,
            });
        }
        let embedding = linear("token_embd.weight");
        let head = if config.tie_word_embeddings {
            None
        } else {
            Some(linear("output.weight"))
        };
        Ok(Weights {
            embedding,
            layers,
            output_norm: vector("output_norm.weight")?,
            head,
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
