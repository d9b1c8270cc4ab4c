//! Groups of the old kind: a B-tree of symbol table nodes, with the names in a heap.

use anyhow::{Context, Result, bail, ensure};

use super::source::{Fields, Source};

/// Longest name of a link; Keras's are a tenth of it.
const NAME_BYTES: usize = 255;
/// `cache type` of an entry that is a link to another name.
const SOFT_LINK: u32 = 2;

/// A name in a group and the place of its object's header.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: String,
    pub(super) address: u64,
}

/// Everything in the group whose B-tree and name heap are at these places.
pub(super) fn links(source: &mut Source, btree: u64, heap: u64) -> Result<Vec<Link>> {
    let names = heap_segment(source, heap).context("the names of a group")?;
    let mut nodes = Vec::new();
    symbol_nodes(source, btree, None, &mut nodes).context("the B-tree of a group")?;
    let mut links = Vec::new();
    for node in nodes {
        symbols(source, node, &names, &mut links).context("the entries of a group")?;
    }
    Ok(links)
}

fn heap_segment(source: &mut Source, at: u64) -> Result<Vec<u8>> {
    let header = source.structure(at, 32)?;
    let mut fields = Fields(&header);
    fields.expect(b"HEAP\0", "a name heap")?;
    fields.skip(3)?;
    let len = fields.u64()?;
    fields.skip(8)?;
    source.structure(fields.u64()?, len)
}

/// Collects the addresses of the symbol table nodes below the node at `at`, which is `level` above
/// them. Levels fall from node to child, so this ends.
fn symbol_nodes(
    source: &mut Source,
    at: u64,
    level: Option<u8>,
    found: &mut Vec<u64>,
) -> Result<()> {
    let header = source.structure(at, 24)?;
    let mut fields = Fields(&header);
    fields.expect(b"TREE\0", "a node for names")?;
    let own_level = fields.u8()?;
    ensure!(
        level.is_none_or(|level| level == own_level),
        "a node of level {own_level} below one of level {:?} + 1; the file is damaged",
        level
    );
    let children = fields.u16()?;
    let body = source.structure(at.saturating_add(24), u64::from(children) * 16)?;
    let mut fields = Fields(&body);
    for _ in 0..children {
        fields.skip(8)?;
        let child = fields.u64()?;
        match own_level {
            0 => found.push(child),
            _ => symbol_nodes(source, child, Some(own_level - 1), found)?,
        }
    }
    Ok(())
}

fn symbols(source: &mut Source, at: u64, names: &[u8], links: &mut Vec<Link>) -> Result<()> {
    let header = source.structure(at, 8)?;
    let mut fields = Fields(&header);
    fields.expect(b"SNOD\x01", "a symbol table node")?;
    fields.skip(1)?;
    let count = fields.u16()?;
    let body = source.structure(at.saturating_add(8), u64::from(count) * 40)?;
    let mut fields = Fields(&body);
    for _ in 0..count {
        let name = name_at(names, fields.u64()?)?;
        let address = fields.u64()?;
        let cache_type = fields.u32()?;
        fields.skip(20)?;
        if cache_type == SOFT_LINK {
            bail!("{name} is a link to another name, which Keras never writes");
        }
        // Names may overlap in the heap, so each is counted.
        source.charge(name.len() as u64)?;
        links.push(Link { name, address });
    }
    Ok(())
}

fn name_at(names: &[u8], at: u64) -> Result<String> {
    let rest = usize::try_from(at).ok().and_then(|at| names.get(at..));
    let rest = rest.with_context(|| {
        format!(
            "a name at byte {at} of a heap of {}; the file is damaged",
            names.len()
        )
    })?;
    let len = rest.iter().take(NAME_BYTES + 1).position(|&byte| byte == 0);
    let name = len
        .and_then(|len| std::str::from_utf8(&rest[..len]).ok())
        .filter(|name| !name.is_empty() && !name.contains('/') && !name.contains(char::is_control));
    let name = name.with_context(|| {
        format!(
            "a name that is empty, longer than {NAME_BYTES} bytes, not UTF-8, has a slash or a control character; \
             the file is damaged"
        )
    })?;
    Ok(name.to_owned())
}
