//! How much a source may hold. Generous for any root that a server boots, and far below what would
//! take the machine down that builds it.

/// Bounds on one source. What goes over one is refused by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries, over all layers.
    pub entries: u64,
    /// Bytes of names, link targets, extended attributes and sparse maps: what is held in memory.
    pub metadata_bytes: u64,
    /// Bytes of file contents over all layers, holes counted.
    pub content_bytes: u64,
    /// Bytes that packed archives unpack to, together.
    pub unpacked_bytes: u64,
    /// How many times its own size an archive may unpack to, beyond a first GiB.
    pub ratio: u64,
    /// Bytes of one name.
    pub path_bytes: usize,
    /// Folders that a name may lie deep.
    pub depth: usize,
    /// Bytes of the extended attributes of one entry, and of its PAX header.
    pub header_bytes: u64,
    /// Layers of an OCI image.
    pub layers: usize,
    /// Bytes of an OCI index, manifest or configuration.
    pub json_bytes: u64,
}

impl Default for Bounds {
    fn default() -> Bounds {
        const GIB: u64 = 1 << 30;
        Bounds {
            entries: 1_000_000,
            metadata_bytes: GIB / 2,
            content_bytes: 64 * GIB,
            unpacked_bytes: 64 * GIB,
            ratio: 200,
            path_bytes: 4095,
            depth: 128,
            header_bytes: 1 << 20,
            layers: 512,
            json_bytes: 4 << 20,
        }
    }
}

/// What was taken of the bounds so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Used {
    pub entries: u64,
    pub metadata_bytes: u64,
    pub content_bytes: u64,
    pub unpacked_bytes: u64,
}

/// A bound that would be passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it holds more than {limit} {what}, which is the bound (it can be raised)")]
pub struct Exceeded {
    /// Of what.
    pub what: &'static str,
    /// The bound.
    pub limit: u64,
}

fn take(used: &mut u64, more: u64, limit: u64, what: &'static str) -> Result<(), Exceeded> {
    *used = used.saturating_add(more);
    if *used > limit { Err(Exceeded { what, limit }) } else { Ok(()) }
}

impl Used {
    /// One entry with so many bytes of metadata. Each counts some for its own record.
    pub fn entry(&mut self, bounds: &Bounds, metadata: u64) -> Result<(), Exceeded> {
        take(&mut self.entries, 1, bounds.entries, "entries")?;
        self.metadata(bounds, metadata)
    }

    pub fn metadata(&mut self, bounds: &Bounds, bytes: u64) -> Result<(), Exceeded> {
        take(&mut self.metadata_bytes, bytes, bounds.metadata_bytes, "bytes of names and attributes")
    }

    pub fn content(&mut self, bounds: &Bounds, bytes: u64) -> Result<(), Exceeded> {
        take(&mut self.content_bytes, bytes, bounds.content_bytes, "bytes of file contents")
    }

    pub fn unpacked(&mut self, bounds: &Bounds, bytes: u64) -> Result<(), Exceeded> {
        take(&mut self.unpacked_bytes, bytes, bounds.unpacked_bytes, "bytes once unpacked")
    }
}
