//! A wire between a process and a service that can be cut without either side noticing.

use std::sync::{Arc, Mutex};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Passes connections on to a service.
pub struct Proxy {
    port: u16,
    /// Tells each connection that passes to fall silent, with its sockets open.
    cuts: Arc<Mutex<watch::Sender<Cut>>>,
}

/// What does not pass any more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cut {
    Nothing,
    Everything,
    /// What the service says.
    Answers,
}

impl Proxy {
    /// Starts one in front of that port of loopback.
    pub async fn start(service: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let cuts = Arc::new(Mutex::new(watch::channel(Cut::Nothing).0));
        let told = Arc::clone(&cuts);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let cut = told.lock().expect("no test panics here").subscribe();
                tokio::spawn(pass(near, service, cut));
            }
        });
        Self { port, cuts }
    }

    /// The address to give to a client instead of the service's own.
    #[must_use]
    pub fn in_front_of(&self, url: &str, service: u16) -> String {
        url.replace(&format!(":{service}"), &format!(":{}", self.port))
    }

    /// From now on nothing passes over the connections that are open; new ones are not affected.
    pub fn cut(&self) {
        self.tell(Cut::Everything);
    }

    /// From now on the service hears what comes over the connections that are open, and is not heard; new ones are not
    /// affected.
    pub fn lose_answers(&self) {
        self.tell(Cut::Answers);
    }

    fn tell(&self, cut: Cut) {
        self.cuts.lock().expect("no test panics here").send_replace(cut);
    }
}

async fn pass(mut near: TcpStream, service: u16, mut cut: watch::Receiver<Cut>) {
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", service)).await else { return };
    tokio::select! {
        _ = copy_bidirectional(&mut near, &mut far) => return,
        Ok(()) = cut.changed() => {}
    }
    let kind = *cut.borrow();
    if kind == Cut::Answers {
        let _ = tokio::io::copy(&mut near, &mut far).await;
    }
    // Both sockets stay open, and nobody reads them any more.
    std::future::pending::<()>().await;
}
