//! Waiting to be told to end.

use std::{io, process};

use longshore::{
    Dispatcher,
    signal::{Signal, Signals},
};

/// Ctrl-C, the request to end, Ctrl-Break, and the end of the terminal or console.
pub(crate) struct Stop {
    signals: Signals,
}

impl Stop {
    /// From here on they do not end the process.
    pub(crate) fn prepare(port: &Dispatcher) -> io::Result<Self> {
        let signals = [
            Signal::INTERRUPT,
            Signal::TERMINATE,
            Signal::HANG_UP,
            Signal::QUIT,
        ];
        Signals::new(port, signals).map(|signals| Self { signals })
    }

    /// Waits until one of them comes. The next one ends the process at once.
    pub(crate) async fn wait(mut self, port: &Dispatcher) -> io::Result<Signal> {
        let first = self.signals.wait().await?;
        port.spawn(async move {
            if let Ok(second) = self.signals.wait().await {
                eprintln!("{second}: ending at once");
                process::exit(1);
            }
        })
        .detach();
        Ok(first)
    }
}
