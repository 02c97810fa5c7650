//! Structured output: which tokens a schema, a regular expression or a grammar lets through.
//!
//! ```text
//! request ──► compile thread: limits, llguidance, cache ──► queue ──► Generation
//!                                                                        │ accept(token)
//!             mask thread: the next token's mask ◄───────────────────────┤        ▲
//!                   └── while the forward pass runs ──► allowed() ──► Sampler ────┘
//! ```
//!
//! The automaton is llguidance's. A constraint is compiled once and kept; each request works on a copy of its own, so that no
//! request can spend another's limits or be stopped by its fault. The engine's thread waits for a mask before it samples:
//! what is chosen does not depend on when the mask was ready. Requests without a constraint start none of this.

mod automaton;
mod compiler;
mod constraint;
mod grammar;
mod schema;
mod state;
mod tools;
mod vocabulary;
mod worker;

pub use constraint::{Constraint, ToolChoice};

pub(crate) use compiler::{Guides, GuidesParts};
pub(crate) use state::Guide;
