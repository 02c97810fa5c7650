//! Which blocks hold the beginning of which text: a tree of full blocks, each known by its parent and its tokens.
//!
//! A node is a block. Its key is its parent's number, which is never used twice, and its 16 token ids, and a lookup
//! compares all of it: the hash only finds the candidate. So a block is found by nobody whose tokens differ from the first
//! position on. Nodes that no sequence uses are kept in the order in which they were given up, and go in that order.

use std::collections::HashMap;

use crate::{BLOCK_TOKENS, BlockId, BlockMove};

/// The tokens of a full block.
pub type BlockTokens = [u32; BLOCK_TOKENS];

/// How far a text has been followed into the tree: nothing of it, to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCursor {
    node: u64,
    blocks: usize,
}

impl PrefixCursor {
    /// Blocks that lie behind it.
    pub fn blocks(self) -> usize {
        self.blocks
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// Number of the node of the block before; 0 for the first block of a text.
    parent: u64,
    tokens: BlockTokens,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    number: u64,
    key: Key,
    /// No sequence uses it: it is in the list.
    idle: bool,
    /// Neighbours in the list of idle nodes.
    older: Option<BlockId>,
    newer: Option<BlockId>,
}

/// See the module's text. It holds no references: the pool's books say who does.
#[derive(Debug)]
pub(crate) struct PrefixTree {
    blocks: HashMap<Key, BlockId>,
    /// The node of each block.
    nodes: Vec<Option<Node>>,
    last_number: u64,
    oldest: Option<BlockId>,
    newest: Option<BlockId>,
    idle: usize,
}

impl PrefixTree {
    /// An empty tree for the blocks of a pool.
    pub fn new(blocks: usize) -> Self {
        Self {
            blocks: HashMap::with_capacity(blocks),
            nodes: vec![None; blocks],
            last_number: 0,
            oldest: None,
            newest: None,
            idle: 0,
        }
    }

    /// Nodes that no sequence uses.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// The block of these tokens after `cursor`, and the cursor behind it.
    pub fn find(
        &self,
        cursor: PrefixCursor,
        tokens: &BlockTokens,
    ) -> Option<(BlockId, PrefixCursor)> {
        let key = Key {
            parent: cursor.node,
            tokens: *tokens,
        };
        let block = *self.blocks.get(&key)?;
        Some((block, self.behind(cursor, block)?))
    }

    /// Makes a block, which a sequence uses, the one of these tokens after `cursor`, where there is none.
    pub fn insert(
        &mut self,
        cursor: PrefixCursor,
        tokens: &BlockTokens,
        block: BlockId,
    ) -> PrefixCursor {
        let key = Key {
            parent: cursor.node,
            tokens: *tokens,
        };
        self.last_number += 1;
        let node = Node {
            number: self.last_number,
            key,
            idle: false,
            older: None,
            newer: None,
        };
        let before = (
            self.blocks.insert(key, block),
            self.nodes[block.index()].replace(node),
        );
        assert!(
            matches!(before, (None, None)),
            "a block or a text was entered twice"
        );
        PrefixCursor {
            node: node.number,
            blocks: cursor.blocks + 1,
        }
    }

    /// Whether a block is in the tree.
    pub fn has(&self, block: BlockId) -> bool {
        self.nodes[block.index()].is_some()
    }

    /// Whether no sequence uses a block of the tree.
    pub fn is_idle(&self, block: BlockId) -> bool {
        self.nodes[block.index()].is_some_and(|node| node.idle)
    }

    /// The last sequence has given a block up: of the idle ones it is the newest.
    pub fn rest(&mut self, block: BlockId) {
        let older = self.newest.replace(block);
        match older {
            Some(older) => self.node(older).newer = Some(block),
            None => self.oldest = Some(block),
        }
        let node = self.node(block);
        debug_assert!(!node.idle);
        (node.idle, node.older, node.newer) = (true, older, None);
        self.idle += 1;
    }

    /// A sequence uses an idle block again.
    pub fn wake(&mut self, block: BlockId) {
        let node = self.node(block);
        let (older, newer) = (node.older.take(), node.newer.take());
        debug_assert!(node.idle);
        node.idle = false;
        match older {
            Some(older) => self.node(older).newer = newer,
            None => self.oldest = newer,
        }
        match newer {
            Some(newer) => self.node(newer).older = older,
            None => self.newest = older,
        }
        self.idle -= 1;
    }

    /// Forgets the idle block that was given up first. Sequences give the ends of their texts up before the beginnings, so
    /// that it has no children; those that it has all the same are found by nobody any more, and go in their turn.
    pub fn evict(&mut self) -> Option<BlockId> {
        let block = self.oldest?;
        self.wake(block);
        self.remove(block);
        Some(block)
    }

    /// Forgets a block that is not idle.
    pub fn remove(&mut self, block: BlockId) {
        if let Some(node) = self.nodes[block.index()].take() {
            debug_assert!(!node.idle);
            self.blocks.remove(&node.key);
        }
    }

    /// Blocks were moved: each keeps its node.
    pub fn moved(&mut self, moves: &[BlockMove]) {
        for &BlockMove { from, to } in moves {
            let Some(node) = self.nodes[from.index()].take() else {
                continue;
            };
            debug_assert!(!self.has(to));
            self.nodes[to.index()] = Some(node);
            self.blocks.insert(node.key, to);
            if !node.idle {
                continue;
            }
            match node.older {
                Some(older) => self.node(older).newer = Some(to),
                None => self.oldest = Some(to),
            }
            match node.newer {
                Some(newer) => self.node(newer).older = Some(to),
                None => self.newest = Some(to),
            }
        }
    }

    fn behind(&self, cursor: PrefixCursor, block: BlockId) -> Option<PrefixCursor> {
        let node = self.nodes[block.index()].as_ref()?;
        Some(PrefixCursor {
            node: node.number,
            blocks: cursor.blocks + 1,
        })
    }

    /// A node that must be there.
    fn node(&mut self, block: BlockId) -> &mut Node {
        let node = self.nodes[block.index()].as_mut();
        node.expect("a block in the list of idle ones is in the tree")
    }
}
