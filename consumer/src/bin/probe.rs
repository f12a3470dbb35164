//! Requests a health endpoint once: `probe 127.0.0.1:8080 /healthz/ready`.
//!
//! The orchestrator runs it inside the image, which has no shell.

use std::{
    env::args,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

/// The timeout of connecting, writing and each read: less together than the orchestrator waits.
const PROBE_STEP_TIMEOUT: Duration = Duration::from_secs(1);

/// The start of a successful response.
const OK_STATUS_LINE: &[u8] = b"HTTP/1.1 200";

fn main() -> ExitCode {
    let mut arguments = args().skip(1);
    let (Some(address), Some(path)) = (arguments.next().and_then(|text| text.parse().ok()), arguments.next()) else {
        return ExitCode::from(64);
    };
    match is_ok(address, &path) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) | Err(_) => ExitCode::FAILURE,
    }
}

fn is_ok(address: SocketAddr, path: &str) -> io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_STEP_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_STEP_TIMEOUT))?;
    stream.set_write_timeout(Some(PROBE_STEP_TIMEOUT))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut status = [0; OK_STATUS_LINE.len()];
    stream.read_exact(&mut status)?;
    Ok(status == OK_STATUS_LINE)
}
