use serde::{Deserialize, Serialize};
use std::fmt;

/// The instruction set that a kernel and a userland are built for. Decides which images fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    X86_64,
    /// 64-bit ARM.
    Aarch64,
    /// 64-bit RISC-V.
    Riscv64,
    /// 64-bit LoongArch.
    Loongarch64,
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
            Arch::Riscv64 => "riscv64",
            Arch::Loongarch64 => "loongarch64",
        })
    }
}

/// The firmware that asks, by option 93 (RFC 4578 section 2.1, IANA "Processor Architecture
/// Types"). Decides which NBP fits; the kernel's [`Arch`] follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientArch {
    /// 0: PC BIOS, by PXE.
    Bios,
    /// 20: PC BIOS, by HTTP.
    BiosHttp,
    /// 6: 32-bit x86 UEFI.
    UefiIa32,
    /// 7 and, by RFC 4578's erratum, 9: 64-bit x86 UEFI.
    UefiX64,
    /// 10: 32-bit ARM UEFI.
    UefiArm32,
    /// 11: 64-bit ARM UEFI.
    UefiArm64,
    /// 15: 32-bit x86 UEFI HTTP Boot.
    HttpIa32,
    /// 16: 64-bit x86 UEFI HTTP Boot.
    HttpX64,
    /// 18: 32-bit ARM UEFI HTTP Boot.
    HttpArm32,
    /// 19: 64-bit ARM UEFI HTTP Boot.
    HttpArm64,
    /// 0x1b: 64-bit RISC-V UEFI.
    UefiRiscv64,
    /// 0x27: 64-bit LoongArch UEFI.
    UefiLoong64,
    /// Any other value.
    Other(u16),
}

impl ClientArch {
    /// From the number in option 93.
    pub fn from_code(code: u16) -> ClientArch {
        match code {
            0 => ClientArch::Bios,
            20 => ClientArch::BiosHttp,
            6 => ClientArch::UefiIa32,
            7 | 9 => ClientArch::UefiX64,
            10 => ClientArch::UefiArm32,
            11 => ClientArch::UefiArm64,
            15 => ClientArch::HttpIa32,
            16 => ClientArch::HttpX64,
            18 => ClientArch::HttpArm32,
            19 => ClientArch::HttpArm64,
            0x1b => ClientArch::UefiRiscv64,
            0x27 => ClientArch::UefiLoong64,
            other => ClientArch::Other(other),
        }
    }

    /// The kernel architecture that this firmware starts, where one exists.
    pub fn arch(self) -> Option<Arch> {
        Some(match self {
            // Every BIOS server of the last fifteen years runs a 64-bit kernel.
            ClientArch::Bios | ClientArch::BiosHttp => Arch::X86_64,
            ClientArch::UefiX64 | ClientArch::HttpX64 => Arch::X86_64,
            ClientArch::UefiArm64 | ClientArch::HttpArm64 => Arch::Aarch64,
            ClientArch::UefiRiscv64 => Arch::Riscv64,
            ClientArch::UefiLoong64 => Arch::Loongarch64,
            ClientArch::UefiIa32
            | ClientArch::HttpIa32
            | ClientArch::UefiArm32
            | ClientArch::HttpArm32
            | ClientArch::Other(_) => return None,
        })
    }

    /// True where the firmware fetches its NBP by HTTP (UEFI HTTP Boot).
    pub fn is_http(self) -> bool {
        matches!(
            self,
            ClientArch::BiosHttp
                | ClientArch::HttpIa32
                | ClientArch::HttpX64
                | ClientArch::HttpArm32
                | ClientArch::HttpArm64
        )
    }

    /// True for a PC BIOS.
    pub fn is_bios(self) -> bool {
        matches!(self, ClientArch::Bios | ClientArch::BiosHttp)
    }
}
