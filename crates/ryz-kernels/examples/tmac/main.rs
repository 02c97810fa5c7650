//! Batching, layout and prefetch, one after the other, on the layers of BitNet b1.58 2B-4T: see `docs/tmac.md`.
//!
//! ```text
//! cargo run --release -p ryz-kernels --example tmac -- time [--level NAME] [--tokens N] [--layers N] [--rounds N] [--prefetch N]
//! cargo run --release -p ryz-kernels --example tmac -- run VARIANT|none [the same]
//! ```
//!
//! `time` runs every variant in turn, round by round, and prints a JSON object. `run` runs one variant once, for a program
//! that counts from outside; `none` only prepares, so that what preparing costs can be taken off.
#![allow(clippy::unwrap_used, clippy::print_stdout)] // a bench

mod naive;
mod variant;

use std::{error::Error, hint::black_box, time::Instant};

use naive::Naive;
use ryz_format::{DType, TensorView};
use ryz_kernels::{
    ActivationView, BatchLayout, Kernels, Level, PackedTernary, QuantizedActivations,
    QuantizedLayout, TILE_TOKENS, TiledActivations,
};
use ryz_tmac::{Arena, ArenaConfig, LINE, MatMut};
use variant::Variant;

/// Rows × columns of a layer: query, key and value; output; gate and up; down.
const SHAPES: [(usize, usize); 4] = [(3840, 2560), (2560, 2560), (13824, 2560), (2560, 6912)];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

struct Options {
    level: Level,
    tokens: usize,
    layers: usize,
    rounds: usize,
    prefetch: usize,
}

/// One matrix in both forms, and what it multiplies.
struct Layer {
    naive: Naive,
    packed: PackedTernary,
    x: Vec<f32>,
    out: Vec<f32>,
    rows: usize,
    cols: usize,
}

struct Bench {
    arena: Arena,
    matrices: Vec<Layer>,
    kernels: Kernels,
    prefetch: usize,
    tokens: usize,
}

impl Bench {
    fn new(options: &Options) -> Result<Self, Box<dyn Error>> {
        let arena = Arena::new(ArenaConfig::default());
        let kernels = Kernels::new(options.level)?;
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut matrices = Vec::new();
        for (rows, cols) in SHAPES.repeat(options.layers) {
            let mut blocks: Vec<u8> = Vec::with_capacity(rows * cols / 4);
            while blocks.len() < rows * cols / 4 {
                blocks.extend(random.next().to_le_bytes());
            }
            // No code 3.
            blocks
                .iter_mut()
                .for_each(|byte| *byte &= !(*byte >> 1 & *byte & 0x55));
            let view = TensorView::with_scale("w", DType::I2S, rows, cols, &blocks, 1.0)?;
            matrices.push(Layer {
                naive: Naive::new(&blocks, rows, cols),
                packed: PackedTernary::pack(&view, kernels, &arena)?,
                x: (0..options.tokens * cols)
                    .map(|_| random.next() as i32 as f32 * 1e-9)
                    .collect(),
                out: vec![0.0; options.tokens * rows],
                rows,
                cols,
            });
        }
        Ok(Self {
            arena,
            matrices,
            kernels,
            prefetch: options.prefetch,
            tokens: options.tokens,
        })
    }

    /// Quantises and multiplies the first `tokens` tokens.
    fn run(&mut self, variant: Variant, tokens: usize) {
        match variant.options(self.prefetch) {
            None => (0..tokens).for_each(|token| self.naive(token)),
            Some(options) => {
                let kernels = self.kernels.with_options(options);
                self.batch(kernels, tokens);
            }
        }
        black_box(&self.matrices.last().unwrap().out);
    }

    fn naive(&mut self, token: usize) {
        for layer in &mut self.matrices {
            let layout = QuantizedLayout::per_token(layer.cols);
            let mut rows = QuantizedActivations::new(layout, 1, &self.arena).unwrap();
            let x = &layer.x[token * layer.cols..][..layer.cols];
            self.kernels.quantize_row(layout, x, rows.row_mut(0));
            let (rows, out) = (rows.rows(1), &mut layer.out[token * layer.rows..]);
            let out = &mut out[..layer.rows];
            layer.naive.product(rows.values(0), rows.factors(0)[0], out);
        }
    }

    fn batch(&mut self, kernels: Kernels, tokens: usize) {
        for layer in &mut self.matrices {
            layer.packed.set_kernels(kernels);
            let layout = QuantizedLayout::per_token(layer.cols);
            let mut rows = QuantizedActivations::new(layout, tokens, &self.arena).unwrap();
            for (token, x) in layer.x.chunks_exact(layer.cols).take(tokens).enumerate() {
                kernels.quantize_row(layout, x, rows.row_mut(token));
            }
            let rows = rows.rows(tokens);
            let out = MatMut::from_slice(&mut layer.out[..tokens * layer.rows], layer.rows);
            if kernels.batch() == BatchLayout::Tiles && tokens >= TILE_TOKENS {
                let tiles = TiledActivations::of_rows(rows, kernels, &self.arena).unwrap();
                layer.packed.matmul(0..layer.rows, tiles.view(rows), out);
            } else {
                let x = ActivationView::I8(rows);
                layer.packed.matmul(0..layer.rows, x, out);
            }
        }
    }

    /// Runs every variant, and fails unless all gave the same bits.
    fn check(&mut self) {
        let mut expected: Option<Vec<Vec<f32>>> = None;
        for variant in Variant::ALL {
            self.matrices.iter_mut().for_each(|m| m.out.fill(f32::NAN));
            self.run(variant, self.tokens);
            let got: Vec<_> = self.matrices.iter().map(|m| m.out.clone()).collect();
            let expected = expected.get_or_insert_with(|| got.clone());
            assert!(*expected == got, "{} gives other results", variant.name());
        }
    }

    /// Cache lines of weights, quantised activations and outputs that a token has to itself, each counted once a pass:
    /// what must be touched, by addresses alone.
    fn lines(&self, variant: Variant) -> f64 {
        let mut lines = 0.0;
        for layer in &self.matrices {
            let layout = QuantizedLayout::per_token(layer.cols);
            let own = (layout.lines() + (layer.rows * 4).div_ceil(LINE)) as f64;
            let tiles = layout.tile_lines() as f64 / TILE_TOKENS as f64;
            let shared = layer.packed.packed_bytes().div_ceil(LINE) as f64 / self.tokens as f64;
            lines += own;
            lines += match variant {
                Variant::Naive => layer.naive.lines() as f64,
                Variant::Rows | Variant::RowsPrefetch => shared,
                Variant::Tiles | Variant::TilesPrefetch => shared + tiles,
            };
        }
        lines
    }
}

/// Seconds that this thread ran on a processor; 0 where the system does not say.
fn processor() -> f64 {
    #[cfg(target_os = "linux")]
    {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: the call writes one timespec, which is there. (rustix asks the vDSO, and valgrind faults there.)
        let status = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
        assert_eq!(status, 0, "every Linux has this clock");
        time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
    }
    #[cfg(not(target_os = "linux"))]
    0.0
}

#[derive(Default)]
struct Times {
    wall: Vec<f64>,
    processor: Vec<f64>,
}

impl Times {
    fn measure(&mut self, work: impl FnOnce()) {
        let (wall, start) = (Instant::now(), processor());
        work();
        let ran = processor() - start;
        self.wall.push(wall.elapsed().as_secs_f64());
        self.processor.push(ran);
    }

    fn json(&self) -> String {
        format!("{{\"wall\":{:?},\"cpu\":{:?}}}", self.wall, self.processor)
    }
}

fn time(bench: &mut Bench, options: &Options) {
    bench.check();
    let mut batch: [Times; 5] = Default::default();
    let mut one: [Times; 5] = Default::default();
    for round in 0..options.rounds {
        for at in 0..Variant::ALL.len() {
            // Each round starts with another one.
            let at = (at + round) % Variant::ALL.len();
            let variant = Variant::ALL[at];
            batch[at].measure(|| bench.run(variant, options.tokens));
            one[at].measure(|| bench.run(variant, 1));
        }
    }
    let variants: Vec<String> = Variant::ALL
        .into_iter()
        .zip(batch.iter().zip(&one))
        .map(|(variant, (batch, one))| {
            format!(
                "{{\"name\":\"{}\",\"lines\":{:.1},\"batch\":{},\"one\":{}}}",
                variant.name(),
                bench.lines(variant),
                batch.json(),
                one.json()
            )
        })
        .collect();
    println!(
        "{{\"level\":\"{}\",\"kernels\":\"{}, {}\",\"tokens\":{},\"layers\":{},\"prefetch\":{},\"variants\":[{}]}}",
        options.level,
        bench.kernels.names()[0],
        bench.kernels.names()[1],
        options.tokens,
        options.layers,
        options.prefetch,
        variants.join(",")
    );
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = "tmac time|run VARIANT [--level NAME] [--tokens N] [--layers N] [--rounds N] [--prefetch N]";
    let mut options = Options {
        level: Level::detect(),
        tokens: 2 * TILE_TOKENS,
        layers: 4,
        rounds: 5,
        prefetch: ryz_tmac::PrefetchManager::DEFAULT_LINES,
    };
    let flags = arguments.iter().position(|text| text.starts_with("--"));
    let (command, flags) = arguments.split_at(flags.unwrap_or(arguments.len()));
    for flag in flags.chunks(2) {
        let [name, value] = flag else {
            return Err(usage.into());
        };
        match name.as_str() {
            "--level" => options.level = value.parse()?,
            "--tokens" => options.tokens = value.parse()?,
            "--layers" => options.layers = value.parse()?,
            "--rounds" => options.rounds = value.parse()?,
            "--prefetch" => options.prefetch = value.parse()?,
            _ => return Err(usage.into()),
        }
    }
    if options.tokens == 0 || options.layers == 0 || options.rounds == 0 {
        return Err(usage.into());
    }
    let mut bench = Bench::new(&options)?;
    match command {
        [command] if command == "time" => time(&mut bench, &options),
        [command, name] if command == "run" => {
            let variant = Variant::ALL.into_iter().find(|v| v.name() == name);
            match variant {
                Some(variant) => bench.run(variant, options.tokens),
                None if name == "none" => {}
                None => return Err(usage.into()),
            }
        }
        _ => return Err(usage.into()),
    }
    Ok(())
}
