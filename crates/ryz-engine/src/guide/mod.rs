//! Structured output: which tokens a schema, a regular expression or a grammar lets through.
//!
//! ```text
//! request ──► compile threads: limits, llguidance, cache ──► queue ──► Generation
//!                                                                        │ accept(token)
//!             mask threads: the next token's mask ◄──────────────────────┤        ▲
//!                   └── while the forward pass runs ──► allowed() ──► Sampler ────┘
//! ```
//!
//! The automaton is llguidance's. A constraint is compiled once and kept; each request works on a copy of its own, so that no
//! request can spend another's limits or be stopped by its fault. A sequence whose mask is late keeps its logits and sits out
//! steps until the mask is there: what is chosen does not depend on when that was, and others do not wait. Requests without a
//! constraint start none of this.

mod automaton;
pub(crate) mod compiler;
mod constraint;
mod grammar;
mod keys;
mod pool;
mod schema;
mod state;
mod tools;
mod vocabulary;
mod worker;

pub use constraint::{Constraint, SchemaSettings, ToolChoice, WhiteSpace};

pub(crate) use state::Guide;
