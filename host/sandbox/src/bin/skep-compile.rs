//! A process that compiles one component and ends: what `CompileIn::Process` starts where the
//! node's own program is not at hand.

fn main() -> std::process::ExitCode {
    skep_sandbox::compile_process()
}
