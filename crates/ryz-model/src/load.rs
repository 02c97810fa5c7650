//! Loads weights from a file's blocks into the arena, packed for the kernels.

use std::{
    collections::HashSet,
    ops::ControlFlow,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use ryz_format::{
    DType, HiddenAct, ModelConfig, SharedQuantizer, TensorError, TensorInfo, TensorRole,
    WeightScales,
};
use ryz_kernels::{Activation, Kernels, Linear, Packing, SparseTernary};
use ryz_numa::{Lease, WorkQueue};
use ryz_tmac::{Arena, BufferKind, MappedFile};

use crate::{
    Activations, Calibration, Fingerprint, ModelError, ModelSource,
    compression::ValueProjection,
    fingerprint::TensorHashes,
    lm_head::{
        HeadImage, HeadScreening, HeadType, IMAGE, LmHead, OUTPUT, RequantizedHead, ScreenedTensor,
    },
    place::{Reservation, Reservations},
    rope::RopeAngles,
    sparsity::Sparsity,
    sync::lock,
    tensor::TensorLoader,
    weights::{
        AttentionWeights, FeedForward, GatedWeights, LayerWeights, Mixer, Projection, Weights,
    },
};

/// Options of [`Model::load`].
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// The instruction set to use.
    pub kernels: Kernels,
    /// Quantization of inputs; `None` selects what the architecture was trained with
    /// ([`Activations::default_for`]).
    pub activations: Option<Activations>,
    /// Quantizer that makes float projections ternary. `None` (the default) keeps floats, except
    /// master weights, which absmean makes ternary as in their training.
    pub quantizer: Option<SharedQuantizer>,
    /// Whether to map prepacked and dense matrices in place where they are aligned to 64 bytes;
    /// default false. Truncating a mapped file kills the process.
    pub map_weights: bool,
    /// Whether feed-forward networks with a squared ReLU skip weights multiplied by zero; default
    /// true. Results are bit-identical.
    pub sparsity: bool,
    /// Packing density of ternary weights that support a choice; default 2 bits. [`Model::repack`]
    /// changes it. Results are bit-identical.
    pub packing: Packing,
    /// Type of the output matrix in products; default the file's. Fewer bits are faster and change
    /// the logits.
    pub head: HeadType,
    /// Whether to skip rows of the head that cannot matter; default off. Sampled tokens do not
    /// change. The image needs memory in addition to the head.
    pub head_screening: HeadScreening,
    /// Minimum bytes per layer read by a step that is shared among threads; default
    /// [`PARALLEL_FROM`]. The bytes are weights times tokens plus the cache, and the head counts as
    /// one more layer. Smaller steps run on one thread, with the same bits, because synchronization
    /// would take longer.
    pub parallel_from: usize,
}

/// Exchanging a step's data between threads takes about 25 µs per layer (two Zen 5 cores). With
/// half of this many bytes each, two threads save as much. The package's bundled model, at 0.6 MB
/// per layer and token, generates 8,000 tokens/s with one thread and 4,100 with two.
pub const PARALLEL_FROM: usize = 2 << 20;

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            kernels: Kernels::default(),
            activations: None,
            quantizer: None,
            map_weights: false,
            sparsity: true,
            packing: Packing::default(),
            head: HeadType::File,
            head_screening: HeadScreening::Off,
            parallel_from: PARALLEL_FROM,
        }
    }
}

/// The cost of making a tensor ternary on load.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedTensor {
    /// Its name.
    pub name: String,
    /// Error of the weights in use relative to the file's.
    pub error: TensorError,
    /// Fraction of weights that are 0.
    pub zero_fraction: f64,
}

/// Progress of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Bytes of tensors read so far.
    pub done_bytes: u64,
    /// Total bytes of tensors.
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
    /// The projection through which values are stored, if any.
    pub(crate) value_projection: Option<ValueProjection>,
    activations: Activations,
    head: HeadType,
    quantized: Vec<QuantizedTensor>,
    /// Maximum threads that run it.
    pub(crate) threads: usize,
    /// Lines of scratch memory per thread.
    pub(crate) scratch_lines: usize,
    /// See [`LoadOptions::parallel_from`].
    pub(crate) parallel_from: usize,
    fingerprint: Arc<Fingerprint>,
}

impl Model {
    /// Reads and packs all weights on the threads of `lease`.
    ///
    /// `progress` is called on the calling thread as tensors finish; [`ControlFlow::Break`] ends
    /// the load with [`ModelError::Aborted`].
    ///
    /// # Errors
    /// File faults ([`ModelError::Tensor`], [`ModelError::Memory`]), failed allocations, or the
    /// abort.
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
            .unwrap_or(Activations::default_for(&config));
        let tensor = |name: &str| source.tensor(name);
        let head = RequantizedHead::of(options.head, &config, tensor);
        let mut loader = Loader {
            source,
            kernels: options.kernels,
            arena,
            quantizer: options.quantizer.as_ref(),
            maps: match options.map_weights {
                true => source.map_files(arena)?,
                false => Vec::new(),
            },
            screened: ScreenedTensor::of(options.head_screening, head.as_ref(), &config, tensor),
            head,
            reserved: Arc::default(),
            sparsity: Sparsity::new(options.sparsity, &config, activations, lease.threads()),
            packing: options.packing,
            scratch_lines: AtomicUsize::new(0),
            hashes: TensorHashes::default(),
        };
        loader.reserve(lease)?;
        let linears = loader.linears(lease, progress)?;
        let head = match loader.head {
            Some(head) => Some(loader.requantize(head, lease)?),
            None => None,
        };
        let (mut weights, quantized) = loader.assemble(&config, activations, linears, head)?;
        weights.lm_head.image = loader.image(weights.head(), options, lease)?;
        let factors = loader.vector("rope_freqs.weight")?;
        let hashes = std::mem::take(&mut loader.hashes);
        let fingerprint = Arc::new(Fingerprint::new(source, hashes, &loader.maps)?);
        let of_products = weights.linears().map(Linear::scratch_lines).max();
        let scratch_lines = of_products
            .unwrap_or(0)
            .max(loader.scratch_lines.into_inner());
        Ok(Self {
            angles: RopeAngles::new(&config.rope, config.rope_dim, factors.as_deref()),
            activation: match config.hidden_act {
                HiddenAct::Relu2 => Activation::Relu2,
                _ => Activation::Silu,
            },
            attention_scale: (1.0 / (config.key_head_dim as f64).sqrt()) as f32,
            value_projection: None,
            kernels: options.kernels,
            weights,
            activations,
            head: loader.head.map_or(HeadType::File, |_| options.head),
            quantized,
            threads: lease.threads(),
            scratch_lines,
            parallel_from: options.parallel_from,
            fingerprint,
            config,
        })
    }

    /// The model's configuration.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The model's fingerprint.
    pub fn fingerprint(&self) -> &Arc<Fingerprint> {
        &self.fingerprint
    }

    /// Quantization of the projections' inputs.
    pub fn activations(&self) -> Activations {
        self.activations
    }

    /// Type of the output matrix in products: the file's own type if the requested one is no
    /// smaller.
    pub fn head(&self) -> HeadType {
        self.head
    }

    /// Stores values in `rank` dimensions from now on ([`Model::stored_value_dim`]), using a
    /// calibration of this model.
    ///
    /// # Errors
    /// [`ModelError::ValueRank`], [`ModelError::Memory`].
    ///
    /// # Panics
    /// When the calibration has another shape, which [`Calibration::load`] rejects.
    pub fn compress_values(
        &mut self,
        calibration: &Calibration,
        rank: usize,
        arena: &Arena,
    ) -> Result<(), ModelError> {
        let shape = [
            self.config.num_hidden_layers,
            self.config.num_key_value_heads,
            self.config.value_head_dim,
        ];
        let got = [calibration.layers, calibration.kv_heads, calibration.dim];
        assert_eq!(got, shape, "layers, heads and channels of a calibration");
        let projection = ValueProjection::new(calibration, rank, self.kernels, arena)?;
        self.value_projection = Some(projection);
        Ok(())
    }

    /// Stores values uncompressed again, as before [`Model::compress_values`].
    pub fn store_whole_values(&mut self) {
        self.value_projection = None;
    }

    /// Stored dimensions of a head's values, which the cache passed to [`Model::forward`] must
    /// match.
    pub fn stored_value_dim(&self) -> usize {
        let projection = self.value_projection.as_ref();
        projection.map_or(self.config.value_head_dim, ValueProjection::rank)
    }

    /// Tensors made ternary on load, with their names.
    pub fn quantized(&self) -> &[QuantizedTensor] {
        &self.quantized
    }

    /// The kernels in use.
    pub fn kernels(&self) -> Kernels {
        self.kernels
    }

    /// Bytes in memory of all matrices and of the head's image.
    pub fn packed_bytes(&self) -> usize {
        let matrices: usize = self.weights.linears().map(Linear::packed_bytes).sum();
        matrices + self.image_bytes()
    }

    /// Bytes of the image used to skip rows of the head ([`HeadScreening`]); 0 without one.
    pub fn image_bytes(&self) -> usize {
        self.weights.lm_head.image_bytes()
    }

    /// Whether the head is its own image, which each [`crate::RunState`] stops using by itself if
    /// it does not pay off.
    pub fn head_is_image(&self) -> bool {
        let image = self.weights.lm_head.image.as_ref();
        image.is_some_and(HeadImage::is_head)
    }

    /// Frees the image; later steps multiply the whole head.
    pub fn drop_image(&mut self) {
        self.weights.lm_head.image = None;
    }

    /// Bytes of the head, all of which a step reads without screening.
    pub fn head_bytes(&self) -> usize {
        self.weights.head().packed_bytes()
    }

    /// Bytes of matrices read per decoded token without skipping: all matrices except the embedding
    /// (one row of it, unless it is also the head), and the projections of compressed values.
    pub fn weight_bytes_per_token(&self) -> usize {
        self.bytes_per_token(Linear::packed_bytes)
    }

    /// [`Model::weight_bytes_per_token`] with ternary weights in 2 bits: a measure of a token's
    /// cost that does not depend on timing.
    pub fn two_bit_bytes_per_token(&self) -> usize {
        self.bytes_per_token(Linear::two_bit_bytes)
    }

    fn bytes_per_token(&self, bytes: fn(&Linear) -> usize) -> usize {
        let embedding = &self.weights.embedding;
        let row = bytes(embedding) / embedding.rows().max(1);
        let not_read = if self.weights.lm_head.own.is_some() {
            bytes(embedding) - row
        } else {
            0
        };
        let projection = self.value_projection.as_ref();
        let all: usize = self.weights.linears().map(bytes).sum();
        all - not_read + projection.map_or(0, ValueProjection::bytes)
    }

    /// The distinct packings of its ternary matrices.
    pub fn packings(&self) -> Vec<Packing> {
        let mut used: Vec<Packing> = self.weights.linears().filter_map(Linear::packing).collect();
        used.sort_by_key(|packing| packing.name());
        used.dedup();
        used
    }

    /// The distinct names of the kernel rows in use.
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

/// Whether a tensor holds float master weights that are made ternary on load.
pub(crate) fn is_master(config: &ModelConfig, name: &str, role: TensorRole) -> bool {
    config.quantize_weights && role == TensorRole::Linear && !config.keeps_floats(name)
}

/// The state shared by all tensor reads.
pub(crate) struct Loader<'a> {
    pub source: &'a ModelSource,
    pub kernels: Kernels,
    pub arena: &'a Arena,
    pub quantizer: Option<&'a SharedQuantizer>,
    /// The mapped files, if weights are read in place.
    pub maps: Vec<Arc<MappedFile>>,
    /// The conversion of the head, if any.
    pub head: Option<RequantizedHead<'a>>,
    /// The tensor to create an image of.
    screened: Option<ScreenedTensor<'a>>,
    /// Memory reserved on the nodes of the threads that will read it; empty on machines with one
    /// node.
    pub reserved: Arc<Reservations>,
    pub sparsity: Sparsity,
    packing: Packing,
    /// Maximum scratch lines of the matrices that skip rows or columns.
    scratch_lines: AtomicUsize,
    /// Hashes of the bytes read.
    pub hashes: TensorHashes,
}

/// A loaded matrix.
pub(crate) struct Matrix {
    pub linear: Linear,
    /// The current type of its weights.
    pub dtype: DType,
    /// The cost of making it ternary.
    pub quantized: Option<QuantizedTensor>,
}

/// Matrices, indexed like the source's tensors.
type Matrices = Vec<Option<Matrix>>;

impl Loader<'_> {
    /// Allocates the memory of all matrices at once, if NUMA placement matters.
    fn reserve(&mut self, lease: &Lease) -> Result<(), ModelError> {
        // The system decides where pages of a mapped file are placed.
        if lease.memory_nodes().is_empty() || !self.maps.is_empty() {
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
                _ if self.replaced(&tensor.name) => continue,
                // The quantizer decides their type.
                role if self.makes_ternary(tensor, role) && self.quantizer.is_some() => continue,
                role if is_master(config, &tensor.name, role) => {
                    Reservation::Ternary(self.labelled(tensor).packer(DType::HfPacked)?)
                }
                _ if tensor.dtype.is_ternary() => {
                    Reservation::Ternary(self.labelled(tensor).packer(tensor.dtype)?)
                }
                _ => {
                    let bytes = usize::try_from(tensor.bytes).unwrap_or(usize::MAX);
                    Reservation::Dense(self.arena.allocate(bytes, BufferKind::Weights)?)
                }
            };
            reserved.push((tensor.name.clone(), tensor.rows, matrix));
        }
        if let Some(head) = &self.head {
            let blocks = self.arena.allocate(head.bytes(), BufferKind::Weights)?;
            let rows = head.tensor.rows;
            reserved.push((OUTPUT.to_owned(), rows, Reservation::Dense(blocks)));
        }
        if let Some(head) = self.screened.filter(|head| head.blocks() > 0) {
            let blocks = self.arena.allocate(head.blocks(), BufferKind::Weights)?;
            reserved.push((IMAGE.to_owned(), head.rows(), Reservation::Dense(blocks)));
        }
        self.reserved = Arc::new(Reservations::place(lease, reserved)?);
        Ok(())
    }

    /// Reads all matrices; workers take tensors from a queue.
    fn linears(
        &self,
        lease: &Lease,
        progress: &mut (dyn FnMut(LoadProgress) -> ControlFlow<()> + Send),
    ) -> Result<Matrices, ModelError> {
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
        let wanted = |tensor: &TensorInfo| {
            matrices.contains(tensor.name.as_str()) && !self.replaced(&tensor.name)
        };
        let role = |tensor: &TensorInfo| match projections.contains(tensor.name.as_str()) {
            true => TensorRole::Linear,
            false => TensorRole::Embedding,
        };
        let total_bytes = tensors.iter().filter(|t| wanted(t)).map(|t| t.bytes).sum();
        let done = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let mut read: Matrices = (0..tensors.len()).map(|_| None).collect();
        let report = |progress: &mut dyn FnMut(LoadProgress) -> ControlFlow<()>| {
            let done_bytes = done.load(Ordering::Relaxed);
            let report = LoadProgress {
                done_bytes,
                total_bytes,
            };
            match progress(report) {
                ControlFlow::Break(()) => Err(ModelError::Aborted),
                ControlFlow::Continue(()) => Ok(()),
            }
        };
        // A caller's quantizer runs on one tensor at a time and does not block other engines'
        // threads.
        if self.quantizer.is_some() {
            for (tensor, read) in tensors.iter().zip(&mut read) {
                if wanted(tensor) && self.makes_ternary(tensor, role(tensor)) {
                    let matrix = self.labelled(tensor).quantized()?;
                    *read = Some(self.in_order(matrix, tensor)?);
                    done.fetch_add(tensor.bytes, Ordering::Relaxed);
                    report(progress)?;
                }
            }
        }
        let queue = WorkQueue::new();
        let failed = Mutex::new(None);
        let progress = Mutex::new(progress);
        let fail = |error| {
            lock(&failed).get_or_insert(error);
            stop.store(true, Ordering::Relaxed);
        };
        let read = Mutex::new(read);
        lease.run(|worker| {
            while let Some(chunk) = queue.next(tensors.len(), 1) {
                let index = chunk.range().start;
                let tensor = &tensors[index];
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if !wanted(tensor) || lock(&read)[index].is_some() {
                    continue;
                }
                let loader = self.labelled(tensor);
                let matrix = if self.makes_ternary(tensor, role(tensor)) {
                    loader.quantized()
                } else {
                    loader.matrix(&stop)
                };
                match matrix.and_then(|matrix| self.in_order(matrix, tensor)) {
                    Ok(matrix) => lock(&read)[index] = Some(matrix),
                    Err(error) => return fail(error),
                }
                done.fetch_add(tensor.bytes, Ordering::Relaxed);
                if worker.index() == 0
                    && let Err(error) = report(&mut **lock(&progress))
                {
                    fail(error);
                }
            }
        })?;
        if let Some(error) = lock(&failed).take() {
            return Err(error);
        }
        report(&mut **lock(&progress))?;
        Ok(read.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a tensor is read only to convert it into another one.
    fn replaced(&self, name: &str) -> bool {
        self.head.as_ref().is_some_and(|head| head.replaces(name))
    }

    /// Creates the head's image if one is requested.
    fn image(
        &self,
        head: &Linear,
        options: &LoadOptions,
        lease: &Lease,
    ) -> Result<Option<HeadImage>, ModelError> {
        if self.screened.is_none() {
            return Ok(None);
        }
        let reserved = match self.reserved.take(IMAGE) {
            Some(Reservation::Dense(blocks)) => Some(blocks),
            _ => None,
        };
        let screening = options.head_screening;
        HeadImage::new(head, screening, self.kernels, self.arena, reserved, lease)
    }

    /// Lays a matrix out in the order that lets products skip rows or columns, if requested and
    /// possible; otherwise applies the requested packing.
    fn in_order(&self, mut matrix: Matrix, tensor: &TensorInfo) -> Result<Matrix, ModelError> {
        let (dtype, rows, cols) = (matrix.dtype, tensor.rows, tensor.cols);
        let Some(order) = self.sparsity.order(&tensor.name, dtype, rows, cols) else {
            matrix.linear.repack(self.packing);
            return Ok(matrix);
        };
        let lines = Sparsity::scratch_lines(order, rows, cols);
        self.scratch_lines.fetch_max(lines, Ordering::Relaxed);
        let Linear::Ternary(packed) = matrix.linear else {
            return Ok(matrix);
        };
        let arena = self.arena.labelled(tensor.name.as_str());
        let ordered = SparseTernary::new(packed, order, &arena);
        let ordered = ordered.map_err(|source| ModelError::Tensor {
            path: self.source.file_of(tensor).path().to_owned(),
            source,
        })?;
        let mut linear = ordered.map_or_else(Linear::Ternary, Linear::Sparse);
        linear.repack(self.packing);
        Ok(Matrix { linear, ..matrix })
    }

    /// A loader for one tensor, which labels its memory with the tensor's name.
    fn labelled<'t>(&'t self, tensor: &'t TensorInfo) -> TensorLoader<'t> {
        TensorLoader {
            loader: self,
            tensor,
            arena: self.arena.labelled(tensor.name.as_str()),
        }
    }

    /// Whether the file's floats are made ternary on load.
    fn makes_ternary(&self, tensor: &TensorInfo, role: TensorRole) -> bool {
        let config = self.source.config();
        let given = self.quantizer.is_some() && role == TensorRole::Linear;
        is_master(config, &tensor.name, role)
            || (given && !tensor.dtype.is_ternary() && !config.keeps_floats(&tensor.name))
    }

    /// Assembles the model from its tensors. The header was checked against the config, so none is
    /// missing.
    fn assemble(
        &self,
        config: &ModelConfig,
        activations: Activations,
        mut matrices: Matrices,
        head: Option<Linear>,
    ) -> Result<(Weights, Vec<QuantizedTensor>), ModelError> {
        let read = matrices.iter_mut().flatten();
        let quantized = read.filter_map(|matrix| matrix.quantized.take()).collect();
        let mut matrix = |name: &str| {
            let tensors = self.source.tensors();
            let index = tensors.iter().position(|tensor| tensor.name == name);
            let found = index.and_then(|index| matrices[index].take());
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
                let Matrix {
                    linear: weight,
                    dtype,
                    ..
                } = matrix(&tensor);
                let scale = match config.weight_scales {
                    WeightScales::None => None,
                    rule => self
                        .vector(&format!("{prefix}.scale"))?
                        .map(|scale| match rule {
                            WeightScales::Divide => 1.0 / scale[0],
                            _ => scale[0],
                        }),
                };
                let form = match config.keeps_floats(&tensor) {
                    true => None,
                    false => activations.form(dtype, weight.cols()),
                };
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
            let attention = AttentionWeights {
                norm: vector(&name("attn_norm"))?,
                query: projection(layer, "attn_q", config.attention_bias)?,
                key: projection(layer, "attn_k", config.attention_bias)?,
                value: projection(layer, "attn_v", config.attention_bias)?,
                query_norm: optional(config.qk_norm, &name("attn_q_norm"))?,
                key_norm: optional(config.qk_norm, &name("attn_k_norm"))?,
                sub_norm: optional(config.sub_norms, &name("attn_sub_norm"))?,
                output: projection(layer, "attn_output", config.attention_output_bias)?,
            };
            let gated = GatedWeights {
                norm: vector(&name("ffn_norm"))?,
                gate: projection(layer, "ffn_gate", false)?,
                up: projection(layer, "ffn_up", false)?,
                sub_norm: optional(config.sub_norms, &name("ffn_sub_norm"))?,
                down: projection(layer, "ffn_down", false)?,
            };
            layers.push(LayerWeights {
                mixer: Mixer::Attention(attention),
                feed_forward: FeedForward::Gated(gated),
            });
        }
        let embedding = matrix("token_embd.weight").linear;
        let of_file = || match config.tie_word_embeddings {
            true => None,
            false => Some(matrix(OUTPUT).linear),
        };
        let head = head.or_else(of_file);
        let weights = Weights {
            embedding,
            layers,
            output_norm: vector("output_norm.weight")?,
            lm_head: LmHead {
                own: head,
                image: None,
            },
        };
        Ok((weights, quantized))
    }
}
