//! What a machine is told to boot, as pure functions: which NBP fits its firmware ([`choose_nbp`]),
//! what its iPXE script says ([`boot_script`], [`autoexec_script`]), what its kernel command line is
//! ([`cmdline`]), and why a boot that stopped has likely stopped ([`likely_cause`]).

mod causes;
pub mod cmdline;
mod nbp;
mod script;
mod template;
#[cfg(test)]
mod tests;

pub use causes::likely_cause;
pub use cmdline::{CmdlineError, Roots};
pub use nbp::{NbpAnswer, ServerAddr, choose_nbp, is_nbp_name};
pub use script::{ScriptError, ScriptInput, ScriptTarget, autoexec_script, boot_script};
