//! Stands in for the crate `cubecl-llvm`, so that burn's CUDA backend builds without LLVM.
//!
//! `cubecl-cuda` can turn a kernel into machine code in two ways: through CUDA C++ and NVIDIA's
//! own run-time compiler, and through LLVM. It always links both, and the build of the real
//! `cubecl-llvm` downloads LLVM, which is large and impossible where downloads are blocked. This
//! project uses the first way (feature `cpp`). So the workspace's `[patch.crates-io]` puts this
//! crate in the place of the real one: the types that `cubecl-cuda` names, and a compiler that
//! says that it is none. Nothing of it runs unless someone asks for the LLVM way.
//!
//! Remove it, and the patch, once `cubecl-cuda` makes its LLVM backend optional.

use std::fmt;

use cubecl_core::ir::{amd::GfxArch, nvidia::SmArch};
use cubecl_core::{Compiler, prelude::KernelDefinition};
use cubecl_environment::backtrace::BackTrace;
use cubecl_runtime::{compiler::CompilationError, kernel::BufferIOAttr};

/// The compiler that is not there.
#[derive(Clone, Debug, Default)]
pub struct PlironCompiler {
    /// For what it would compile.
    pub target: LlvmTarget,
}

/// For what the compiler would compile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LlvmTarget {
    /// NVIDIA's virtual machine code.
    #[default]
    Nvptx,
}

/// What the compiler would be told.
#[derive(Clone, Debug, Default)]
pub struct PlironOptions {
    /// AMD's architecture.
    pub arch: Option<GfxArch>,
    /// NVIDIA's architecture.
    pub sm_arch: Option<SmArch>,
    /// The version of PTX.
    pub ptx_version: Option<nvptx::ptx_version::PtxVersion>,
    /// Whether scalars are passed in the parameter block.
    pub grid_constants: bool,
}

/// What the compiler would return.
#[derive(Clone, Debug)]
pub enum PlironArtifact {
    /// A module of PTX.
    NvptxCode(NvptxModule),
}

impl fmt::Display for PlironArtifact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PlironArtifact::NvptxCode(module) = self;
        f.write_str(&module.ir)
    }
}

/// A module of PTX.
#[derive(Clone, Debug)]
pub struct NvptxModule {
    /// The assembly, ended by a NUL.
    pub ptx: Vec<std::ffi::c_char>,
    /// The kernel's symbol.
    pub entrypoint: String,
    /// The text before assembly.
    pub ir: String,
    /// Bytes of shared memory for a launch.
    pub shared_memory_size: usize,
    /// How the kernel uses each buffer.
    pub io: Vec<BufferIOAttr>,
}

impl Compiler for PlironCompiler {
    type Representation = PlironArtifact;
    type CompilationOptions = PlironOptions;

    fn buffer_io(representation: &PlironArtifact) -> Option<Vec<BufferIOAttr>> {
        let PlironArtifact::NvptxCode(module) = representation;
        Some(module.io.clone())
    }

    fn compile(
        &mut self,
        _: KernelDefinition,
        _: &PlironOptions,
    ) -> Result<PlironArtifact, CompilationError> {
        Err(CompilationError::Generic {
            reason: "this build has no LLVM; kernels are compiled through CUDA C++".to_string(),
            backtrace: BackTrace::capture(),
        })
    }

    fn extension(&self) -> &'static str {
        "ll"
    }

    fn lang_tag(&self) -> &'static str {
        "llvm"
    }
}

/// What concerns NVIDIA.
pub mod nvptx {
    /// Versions of PTX.
    pub mod ptx_version {
        use std::fmt;

        /// A version of PTX. There is none, because nothing emits PTX here.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum PtxVersion {}

        impl PtxVersion {
            /// The newest version that a driver loads.
            pub fn for_driver(_: i32) -> Option<Self> {
                None
            }
        }

        impl fmt::Display for PtxVersion {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {}
            }
        }
    }
}

/// What concerns every target.
pub mod shared {
    /// What a device can do by way of LLVM.
    pub mod lowered_features {
        use cubecl_core::ir::DeviceProperties;

        /// The target that features are narrowed for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum GpuTarget {
            /// NVIDIA's.
            Nvptx,
        }

        /// Leaves the properties as they are: they are narrowed for the LLVM way alone.
        pub fn restrict_features(_: &mut DeviceProperties, _: GpuTarget) {}
    }
}
