//! Why a source is refused. Each names the archive and the entry.

use super::{bounds::Exceeded, oci::OciFault, path::PathFault, tree::TreeError};
use std::{io, path::PathBuf};

/// Why a source can't be read as a root. Nothing was written but temporary files, which are gone.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system said no.
    #[error("can't read {path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nothing that a root can be read from.
    #[error("{path} {what}")]
    NotASource {
        /// What was given.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// One entry.
    #[error("{archive}: entry `{entry}`: {fault}")]
    Entry {
        /// In which archive, folder or layer.
        archive: String,
        /// Its name as it is written.
        entry: String,
        /// What is wrong.
        fault: EntryFault,
    },
    /// The archive as a whole.
    #[error("{archive}: {fault}")]
    Archive {
        /// Which.
        archive: String,
        /// What is wrong.
        fault: ArchiveFault,
    },
    /// No room for what is unpacked.
    #[error(
        "can't write a temporary file in {dir}: {source}: packed archives are unpacked there, name a folder with more room in TMPDIR"
    )]
    Spool {
        /// The folder.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An OCI image that isn't in order.
    #[error("{archive}: {fault}")]
    Oci {
        /// What was given.
        archive: String,
        /// What is wrong.
        fault: Box<OciFault>,
    },
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryFault {
    /// Its name.
    #[error(transparent)]
    Path(#[from] PathFault),
    /// A bound.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// The place in the tree.
    #[error(transparent)]
    Place(#[from] TreeError),
    /// A hard link to what is not there.
    #[error("it is a hard link to `{0}`, which is not in the archive before it nor in a lower layer")]
    LinkMissing(String),
    /// A hard link that leads out.
    #[error("it is a hard link to `{target}`: {fault}")]
    LinkPath {
        /// Its target.
        target: String,
        /// What is wrong with that.
        fault: PathFault,
    },
    /// A hard link to a folder.
    #[error("it is a hard link to the folder `{0}`, which no file system allows")]
    LinkToDir(String),
    /// A link without a target.
    #[error("it is a link without a target")]
    NoTarget,
    /// A symbolic link that no file system holds.
    #[error("its target has {0} bytes or a zero byte in it, and a file system holds 4095 others")]
    BadTarget(usize),
    /// A device where none should be.
    #[error(
        "it is a {what} outside /dev, which a server's root has no use for: allow it with --devices keep, or leave it out with --devices skip"
    )]
    DeviceOutsideDev {
        /// Character or block device.
        what: &'static str,
    },
    /// A device, and none are wanted.
    #[error("it is a {what}, and devices are refused (--devices)")]
    Device {
        /// Character or block device.
        what: &'static str,
    },
    /// A number that can't be.
    #[error("its {0} is not a number that fits")]
    Number(&'static str),
    /// It is cut.
    #[error("the archive ends inside it: it is truncated, get it again")]
    Truncated,
    /// Contents where none can be.
    #[error("it is a {0} with contents, which readers of archives read in different ways")]
    Contents(&'static str),
    /// An entry of an unknown kind.
    #[error("its type `{0}` is unknown")]
    Type(char),
    /// A header that isn't in order.
    #[error("its PAX header is damaged: {0}")]
    Pax(&'static str),
    /// Its map of holes isn't in order.
    #[error("it is a sparse file whose map is damaged: {0}")]
    Sparse(&'static str),
    /// Of a whiteout.
    #[error("it is a whiteout for no name")]
    Whiteout,
    /// It can't be read.
    #[error("can't be read: {0}")]
    Read(io::Error),
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveFault {
    /// No tar archive.
    #[error("it is not a tar archive")]
    NotTar,
    /// Cut.
    #[error("it is truncated: it ends {0}; get it again")]
    Truncated(&'static str),
    /// A header with a wrong checksum.
    #[error("the header at byte {0} is damaged (its checksum is wrong): get it again")]
    Header(u64),
    /// Extended headers, and nothing that they belong to.
    #[error("its last header belongs to an entry that doesn't come: it is truncated, get it again")]
    Dangling,
    /// It can't be unpacked.
    #[error("can't unpack it as {how}: {source}")]
    Unpack {
        /// gzip, zstd, xz.
        how: &'static str,
        /// Why.
        source: io::Error,
    },
    /// Packed in a way that isn't supported.
    #[error("it is packed with {how}, which isn't read here: unpack it first (`{tool} -d`)")]
    Packed {
        /// With what.
        how: &'static str,
        /// What unpacks it.
        tool: &'static str,
    },
    /// A bound.
    #[error(transparent)]
    Exceeded(#[from] Exceeded),
    /// Small packed, huge unpacked.
    #[error("its {packed} bytes unpack to more than {limit}: that is a bomb, or raise the bound")]
    Bomb {
        /// Bytes.
        packed: u64,
        /// The bound.
        limit: u64,
    },
    /// It can't be read.
    #[error("can't read it: {0}")]
    Read(io::Error),
}
