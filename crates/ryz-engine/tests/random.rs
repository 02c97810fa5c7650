//! A thousand random requests in a cache that is too small for them.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::*;
use ryz_engine::{
    Engine, EngineConfig, EngineError, FinishReason, GenerateRequest, KvDType, Mirostat, Prompt,
    SamplingParams,
};

const REQUESTS: u64 = 1_000;

/// Numbers that look random (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// A request, and whether its tokens are known in advance.
fn request(random: &mut Random) -> (GenerateRequest, bool) {
    // Few kinds of beginnings, so that many find blocks of others.
    let (kind, len) = (random.below(5) as u32, 1 + random.below(80) as u32);
    let prompt = (0..len)
        .map(|t| (t * (3 + kind) + kind * 17) % 400)
        .collect();
    let max_tokens = 1 + random.below(40) as u32;
    let mut request = greedy(Prompt::Tokens(prompt), max_tokens);
    request.priority = random.below(3) as i32 - 1;
    let is_greedy = random.below(2) == 0;
    if !is_greedy {
        let base = SamplingParams {
            seed: Some(random.next()),
            ignore_eos: random.below(2) == 0,
            ..SamplingParams::default()
        };
        request.sampling = match random.below(4) {
            0 => SamplingParams {
                temperature: 1.3,
                top_k: 20,
                ..base
            },
            1 => SamplingParams {
                top_p: 0.7,
                repetition_penalty: 1.3,
                ..base
            },
            2 => SamplingParams {
                min_p: 0.05,
                logprobs: Some(3),
                ..base
            },
            _ => SamplingParams {
                mirostat: Mirostat::V2 { tau: 4.0, eta: 0.1 },
                ..base
            },
        };
    }
    (request, is_greedy)
}

/// The greedy continuations by prompt, each computed alone on an engine without a prefix cache, as far as they were wanted.
#[derive(Default)]
struct Alone(HashMap<Vec<u32>, Vec<u32>>);

impl Alone {
    fn of(&mut self, engine: &Engine, request: &GenerateRequest) -> Vec<u32> {
        let Prompt::Tokens(prompt) = &request.prompt else {
            panic!("a prompt of tokens")
        };
        let count = request.max_tokens.expect("a limit") as usize;
        let known = self.0.entry(prompt.clone()).or_default();
        if known.len() < count {
            *known = run(engine, greedy(request.prompt.clone(), 40)).tokens;
        }
        known[..count].to_vec()
    }
}

#[test]
fn a_thousand_random_requests_all_end_as_they_should_and_leave_nothing() {
    let seed = 20_260_511;
    println!("seed {seed}");
    let mut random = Random(seed);
    let solo = load(
        BITNET,
        &EngineConfig {
            prefix_cache: false,
            ..config()
        },
    );
    let mut alone = Alone::default();
    let mut totals = (0, 0, 0);
    for (kv, requests) in [(KvDType::Int8, REQUESTS - 200), (KvDType::Int4, 200)] {
        let base = EngineConfig { kv, ..config() };
        let solo_of_type;
        let solo = if kv == KvDType::Int8 {
            &solo
        } else {
            alone.0.clear();
            solo_of_type = load(
                BITNET,
                &EngineConfig {
                    prefix_cache: false,
                    ..base.clone()
                },
            );
            &solo_of_type
        };
        // Eight of up to 120 tokens do not fit into 160.
        let engine = load(
            BITNET,
            &EngineConfig {
                context_length: Some(128),
                kv_tokens: Some(160),
                prefill_chunk: 40,
                max_queue: 24,
                ..base
            },
        );
        let mut running = Vec::new();
        let mut refused = 0;
        for index in 0..requests {
            let (request, is_greedy) = request(&mut random);
            let cancel = random.below(5) == 0;
            loop {
                let (sender, events) = std::sync::mpsc::channel();
                let sink = Box::new(move |event| drop(sender.send(event)));
                match engine.generate(request.clone(), sink) {
                    Ok(handle) => {
                        let request = request.clone();
                        running.push((Running { handle, events }, request, is_greedy, cancel));
                        break;
                    }
                    Err(EngineError::QueueFull { limit: 24 }) => {
                        refused += 1;
                        std::thread::sleep(Duration::from_micros(200));
                    }
                    Err(other) => panic!("request {index}: {other}"),
                }
            }
            // Somebody of those who were begun lately is cancelled, wherever it is by now.
            let lately = running.len().saturating_sub(1 + random.below(30) as usize);
            if let (running, _, _, true) = &running[lately] {
                running.handle.cancel();
            }
            if random.below(100) == 0 {
                engine.clear_prefix_cache().expect("the engine lives");
            }
            if random.below(50) == 0 {
                engine
                    .compact_memory(Box::new(|moved| drop(moved.expect("it compacts"))))
                    .expect("the engine lives");
            }
        }
        for (index, (running, request, is_greedy, cancelled)) in running.into_iter().enumerate() {
            let output = running.collect();
            let most = request.max_tokens.expect("a limit") as usize;
            let case = format!("{kv}, request {index}");
            let reason = output.reason();
            match reason {
                FinishReason::Abort => assert!(cancelled, "{case} was cancelled by nobody"),
                FinishReason::Length => assert_eq!(output.tokens.len(), most, "{case}"),
                FinishReason::StopSequence => {
                    panic!("{case} has nothing that a stop string could cut")
                }
                FinishReason::Stop => {
                    assert!(
                        !request.sampling.ignore_eos && output.tokens.len() <= most,
                        "{case}"
                    );
                }
            }
            if is_greedy {
                let want = alone.of(solo, &request);
                assert_ne!(reason, FinishReason::Stop, "{case}");
                assert_eq!(output.tokens, want[..output.tokens.len()], "{case}");
                totals.0 += 1;
            }
            totals.1 += usize::from(reason == FinishReason::Abort);
        }
        settled(&engine);
        let stats = engine.stats();
        println!("{kv}: {stats:?}, refused {refused} times");
        assert!(stats.preemptions > 20, "the cache was not small enough");
        assert!(stats.prefix_tokens_reused > 1_000, "nothing was found");
        totals.2 += stats.preemptions;
        // What is kept is all that is left.
        engine.clear_prefix_cache().expect("the engine lives");
        while engine.stats().kv_blocks_kept > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let layout = engine.memory_layout();
        assert_eq!(
            (layout.paged[0].live, engine.stats().kv_blocks_free),
            (0, stats.kv_blocks)
        );
    }
    println!(
        "greedy {}, aborted {}, pre-empted {}",
        totals.0, totals.1, totals.2
    );
    // How many of those that are to be cancelled end before depends on the machine.
    assert!(totals.0 > 400 && totals.1 > 20);
}
