//! A tree of full blocks that finds the block of a given prefix.
//!
//! A node is a block. Its key is its parent's number, which is never reused, and its 16 token ids.
//! A lookup compares the full key; the hash only finds the candidate. A block is therefore found
//! only by a text with identical tokens from the first position on. Nodes that no sequence uses are
//! queued in the order of their release and evicted in that order.

use std::collections::HashMap;

use crate::{BLOCK_TOKENS, BlockId, BlockMove};

/// The tokens of a full block.
pub type BlockTokens = [u32; BLOCK_TOKENS];

/// The position of a text in the tree; initially at the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefixCursor {
    node: u64,
    blocks: usize,
}

impl PrefixCursor {
    /// Number of blocks before it.
    pub fn blocks(self) -> usize {
        self.blocks
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    /// The number of the preceding block's node; 0 for the first block of a text.
    parent: u64,
    tokens: BlockTokens,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    number: u64,
    key: Key,
    /// Whether no sequence uses it, which places it in the idle list.
    idle: bool,
    /// Neighbours in the idle list.
    older: Option<BlockId>,
    newer: Option<BlockId>,
}

/// The tree of the module's documentation. It holds no references; the pool counts them.
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

    /// Number of nodes that no sequence uses.
    pub fn idle(&self) -> usize {
        self.idle
    }

    /// The block of these tokens after `cursor`, and the cursor after it.
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

    /// Inserts a block in use under these tokens after `cursor`, if there is none yet.
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

    /// Whether a block is in the tree and no sequence uses it.
    pub fn is_idle(&self, block: BlockId) -> bool {
        self.nodes[block.index()].is_some_and(|node| node.idle)
    }

    /// Marks a block idle after its last release; it becomes the newest idle block.
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

    /// Marks an idle block as used again.
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

    /// Removes the oldest idle block. Sequences release the end of a text before its beginning, so
    /// the block normally has no children. Any children left become unreachable and are evicted in
    /// turn.
    pub fn evict(&mut self) -> Option<BlockId> {
        let block = self.oldest?;
        self.wake(block);
        self.remove(block);
        Some(block)
    }

    /// Removes a block that is not idle.
    pub fn remove(&mut self, block: BlockId) {
        if let Some(node) = self.nodes[block.index()].take() {
            debug_assert!(!node.idle);
            self.blocks.remove(&node.key);
        }
    }

    /// Updates moved blocks; each keeps its node.
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

    /// A node that must exist.
    fn node(&mut self, block: BlockId) -> &mut Node {
        let node = self.nodes[block.index()].as_mut();
        node.expect("a block in the list of idle ones is in the tree")
    }
}
