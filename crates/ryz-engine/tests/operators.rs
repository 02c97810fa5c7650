//! Operators: they see every value at their place, may change it, and fail alone.

mod common;

use std::sync::{Arc, Mutex};

use common::*;
use ryz_engine::{HookPoint, Operator, OperatorCall, Prompt};

const PROMPT: [u32; 5] = [7, 41, 300, 5, 77];

fn prompt() -> Prompt {
    Prompt::Tokens(PROMPT.to_vec())
}

/// Notes its calls.
#[derive(Default)]
struct Watch(Mutex<Vec<OperatorCall>>);

impl Operator for Watch {
    fn forward(
        &self,
        call: &OperatorCall,
        values: &mut [f32],
        _: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        assert_eq!(values.len(), call.rows * call.cols);
        assert!(values.iter().all(|value| value.is_finite()));
        self.0.lock().expect("no panic").push(*call);
        Ok(())
    }
}

/// An operator made of a function.
struct Does<F>(F);

impl<F: Fn(&OperatorCall, &mut [f32]) -> Result<(), String> + Send + Sync> Operator for Does<F> {
    fn forward(
        &self,
        call: &OperatorCall,
        values: &mut [f32],
        _: &dyn Fn() -> bool,
    ) -> Result<(), String> {
        (self.0)(call, values)
    }
}

fn at(places: &[&str]) -> Vec<String> {
    places.iter().map(|place| (*place).to_owned()).collect()
}

#[test]
fn an_operator_that_only_looks_sees_every_place_and_changes_nothing() {
    let engine = load(BITNET, &config());
    let want = run(&engine, greedy(prompt(), 6)).tokens;
    let watch = Arc::new(Watch::default());
    let every = [
        "embedding.output",
        "layers.*.attention.output",
        "layers.*.ffn.output",
        "norm.output",
        "logits",
    ];
    engine
        .register_operator("watch", &at(&every), watch.clone())
        .unwrap();
    assert_eq!(run(&engine, greedy(prompt(), 6)).tokens, want);
    let info = engine.model_info();
    let calls = std::mem::take(&mut *watch.0.lock().unwrap());
    // A prompt and five more tokens, at each place.
    assert_eq!(calls.len(), 6 * (2 * info.layers + 3));
    for call in &calls {
        let (cols, outputs) = match call.point {
            HookPoint::Logits => (info.vocab_size, true),
            point => (info.hidden_size, point == HookPoint::FinalNorm),
        };
        let is_prompt = call.position < PROMPT.len();
        let rows = if is_prompt && !outputs {
            PROMPT.len()
        } else {
            1
        };
        assert_eq!((call.rows, call.cols), (rows, cols), "{call:?}");
    }
    assert!(engine.unregister_operator("watch"));
    assert!(!engine.unregister_operator("watch"));
    run(&engine, greedy(prompt(), 2));
    assert!(watch.0.lock().unwrap().is_empty());
}

#[test]
fn what_an_operator_writes_is_what_the_pass_goes_on_with() {
    let engine = load(BITNET, &config());
    let plain = run(&engine, greedy(prompt(), 8)).tokens;
    // The logits themselves: token 3 always wins.
    let favour = Does(|call: &OperatorCall, values: &mut [f32]| {
        values
            .chunks_exact_mut(call.cols)
            .for_each(|row| row[3] = 1e4);
        Ok(())
    });
    engine
        .register_operator("favour", &at(&["logits"]), Arc::new(favour))
        .unwrap();
    assert_eq!(run(&engine, greedy(prompt(), 4)).tokens, [3; 4]);
    engine.unregister_operator("favour");
    // Inside the model: a layer that adds nothing gives another text.
    let silence = Does(|_: &OperatorCall, values: &mut [f32]| {
        values.fill(0.0);
        Ok(())
    });
    engine
        .register_operator("silence", &at(&["layers.0.ffn.output"]), Arc::new(silence))
        .unwrap();
    assert_ne!(run(&engine, greedy(prompt(), 8)).tokens, plain);
    engine.unregister_operator("silence");
    assert_eq!(run(&engine, greedy(prompt(), 8)).tokens, plain);
}

#[test]
fn operators_run_in_the_order_of_their_registration() {
    let engine = load(BITNET, &config());
    for (name, winner) in [("first", 9usize), ("second", 5)] {
        let choose = Does(move |call: &OperatorCall, values: &mut [f32]| {
            values.fill(0.0);
            values
                .chunks_exact_mut(call.cols)
                .for_each(|row| row[winner] = 1.0);
            Ok(())
        });
        engine
            .register_operator(name, &at(&["logits"]), Arc::new(choose))
            .unwrap();
    }
    assert_eq!(run(&engine, greedy(prompt(), 2)).tokens, [5, 5]);
}

#[test]
fn an_operator_fails_its_own_request_only() {
    let engine = load(BITNET, &config());
    let want = run(&engine, greedy(prompt(), 12)).tokens;
    // Fails for the sequence whose first prompt token has another embedding.
    let marked: Vec<f32> = {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let copy = Arc::clone(&seen);
        let look = Does(move |call: &OperatorCall, values: &mut [f32]| {
            copy.lock().unwrap().extend_from_slice(&values[..call.cols]);
            Ok(())
        });
        engine
            .register_operator("look", &at(&["embedding.output"]), Arc::new(look))
            .unwrap();
        run(&engine, greedy(Prompt::Tokens(vec![123]), 1));
        engine.unregister_operator("look");
        Arc::try_unwrap(seen).map_or_else(
            |shared| shared.lock().unwrap().clone(),
            |own| own.into_inner().unwrap(),
        )
    };
    let refuse = Does(move |call: &OperatorCall, values: &mut [f32]| {
        if call.position == 0 && values[..call.cols] == marked {
            return Err("not this one".to_owned());
        }
        Ok(())
    });
    engine
        .register_operator("refuse", &at(&["embedding.output"]), Arc::new(refuse))
        .unwrap();
    let good = start(&engine, greedy(prompt(), 12));
    let bad = start(&engine, greedy(Prompt::Tokens(vec![123, 5]), 12));
    let error = bad.collect().end.unwrap_err();
    assert_eq!(error.code(), "OPERATOR_FAILED");
    assert_eq!(
        error.to_string(),
        "operator refuse at embedding.output: not this one"
    );
    assert_eq!(good.collect().tokens, want);
    settled(&engine);
}

#[test]
fn what_makes_no_sense_is_refused() {
    let engine = load(BITNET, &config());
    let operator = || Arc::new(Watch::default());
    let register =
        |name: &str, places: &[&str]| engine.register_operator(name, &at(places), operator());
    for (name, places) in [
        ("", &["logits"][..]),
        ("a", &[]),
        ("a", &["layers.99.ffn.output"]),
        ("a", &["somewhere"]),
    ] {
        let error = register(name, places).unwrap_err();
        assert_eq!(error.code(), "INVALID_ARGUMENT", "{name:?} {places:?}");
    }
    register("a", &["logits"]).unwrap();
    assert!(register("a", &["logits"]).is_err());
    for index in 1..64 {
        register(&format!("a{index}"), &["logits"]).unwrap();
    }
    assert!(register("one more", &["logits"]).is_err());
}
