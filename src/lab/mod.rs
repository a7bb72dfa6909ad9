//! Virtual servers on real firmware, in network namespaces of their own, booted by the real binary.
//!
//! [`net`] makes the switch and the hosts on it, [`process`] runs programs there that never outlive
//! us, [`qemu`] powers machines on, [`service`] runs `pristine serve` beside them, [`follow`] waits
//! for what their boots do. [`Lab`] is all of it together. Everything is removed on drop, also in a
//! panic; what a killed process left behind is removed by the next one that starts. Needs root.

pub mod console;
pub mod demo;
mod error;
pub mod fleet;
pub mod follow;
pub mod interrupt;
pub mod net;
pub mod process;
pub mod qemu;
pub mod qmp;
pub mod rollout;
pub mod service;
pub mod shell;
pub mod show;
mod site;

pub use console::{Console, Mark};
pub use error::LabError;
pub use follow::Follow;
pub use net::{Host, Net, Tap};
pub use process::{Running, output_within, tethered};
pub use qemu::{Accel, Firmware, Nic, Spec, Stick, Vm, accel};
pub use service::{Mode, Service, Settings};
pub use shell::Shell;
pub use site::{Folder, Lab, copy_images};
