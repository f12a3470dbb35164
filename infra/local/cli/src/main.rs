//! The `kschat` command.

#[tokio::main]
async fn main() -> std::process::ExitCode {
    kschat::cli::run().await
}
