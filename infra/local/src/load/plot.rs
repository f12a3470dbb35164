//! A run as a picture: latency over time, what went wrong when, messages a second, and a table.

use std::fmt::Write;

use super::{
    oracle::{Latency, Outcome},
    timeline::Point,
};

/// Colours of both kinds of screen.
const STYLE: &str = "\
svg{--back:#ffffff;--ink:#1c2430;--soft:#5b6675;--grid:#e3e7ec;--mid:#0b6bcb;--tail:#c2410c;--band:#0b6bcb22;\
--bar:#8fa3ba;--fault:#b91c1c;background:var(--back);\
font-family:system-ui,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;\
font-size:12px}\
@media(prefers-color-scheme:dark){svg{--back:#12161c;--ink:#e6eaf0;--soft:#9aa7b6;--grid:#2a323d;--mid:#62b0ff;\
--tail:#ff9d5c;--band:#62b0ff26;--bar:#51647a;--fault:#ff7b72}}\
text{fill:var(--ink)}.soft{fill:var(--soft)}.title{font-size:17px;font-weight:600}\
.num{font-variant-numeric:tabular-nums}\
.grid{stroke:var(--grid)}.mid{stroke:var(--mid);fill:none;stroke-width:1.6}\
.tail{stroke:var(--tail);fill:none;stroke-width:1.6}\
.band{fill:var(--band)}.max{fill:var(--tail);opacity:.45}.bar{fill:var(--bar)}.fault{fill:var(--fault);opacity:.8}";

const WIDTH: f64 = 960.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 84.0;

/// Height of the latency panel.
const PANEL: f64 = 260.0;

/// Height of the panel of messages a second.
const RATE: f64 = 70.0;

/// Height of a lane of faults.
const LANE: f64 = 16.0;

/// Between two panels.
const SPACE: f64 = 34.0;

/// Lines on the axis of time at most.
const TIME_TICKS: f64 = 10.0;

/// Something that happened to the run, to be drawn beside its latencies.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What it was; those of one name share a lane.
    pub lane: String,
    /// When it began, in seconds since the run began.
    pub from: f64,
    /// When it ended.
    pub to: f64,
}

/// Draws a run as SVG.
#[must_use]
pub fn draw(outcome: &Outcome, title: &str, marks: &[Mark]) -> String {
    let points: Vec<Point> = outcome.timeline.points().collect();
    let step = outcome.timeline.step().as_secs_f64();
    let lanes = lanes(marks);
    let end = marks.iter().map(|mark| mark.to).fold(points.len() as f64 * step, f64::max);
    let mut canvas = Canvas {
        svg: String::new(),
        seconds: end.max(1.0),
        step,
        range: range(&points),
        lanes_top: TOP + PANEL + if lanes.is_empty() { 0.0 } else { SPACE - 12.0 },
    };
    let rate_top = canvas.lanes_top + lanes.len() as f64 * LANE + SPACE;
    let table_top = rate_top + RATE + SPACE + 24.0;
    canvas.head(outcome, title);
    canvas.axes(rate_top + RATE);
    canvas.latencies(&points);
    canvas.marks(&lanes, marks);
    canvas.rates(&points, rate_top);
    canvas.table(outcome, table_top);
    let height = table_top + 64.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" \
         height=\"{height}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"var(--back)\"/>\n{body}</svg>\n",
        title = escaped(title),
        body = canvas.svg,
    )
}

struct Canvas {
    svg: String,
    seconds: f64,
    step: f64,
    /// The decades of milliseconds that are shown: from and to, as powers of ten.
    range: (i32, i32),
    lanes_top: f64,
}

impl Canvas {
    fn put(&mut self, element: std::fmt::Arguments<'_>) {
        // Writing to a string never fails.
        let _ = writeln!(self.svg, "{element}");
    }

    fn x(&self, at: f64) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at / self.seconds).clamp(0.0, 1.0)
    }

    fn y(&self, millis: f64) -> f64 {
        let (low, high) = (f64::from(self.range.0), f64::from(self.range.1));
        let share = (millis.max(1e-3).log10() - low) / (high - low);
        TOP + PANEL * (1.0 - share.clamp(0.0, 1.0))
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str) {
        let text = escaped(text);
        self.put(format_args!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" class=\"{class}\" text-anchor=\"{anchor}\">{text}</text>"
        ));
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        self.put(format_args!("<line class=\"grid\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"));
    }

    fn head(&mut self, outcome: &Outcome, title: &str) {
        let report = &outcome.report;
        let verdict = format!(
            "{} accepted, {:.0} a second; {} lost, {} shown twice, {} out of order",
            report.accepted,
            report.rate(),
            report.lost,
            report.doubled,
            report.out_of_order
        );
        self.text(LEFT, 28.0, "title", "start", title);
        self.text(LEFT, 48.0, "soft", "start", &verdict);
        let mut x = WIDTH - RIGHT - 250.0;
        for (class, name) in [("mid", "p50"), ("tail", "p99")] {
            let to = x + 22.0;
            self.put(format_args!("<path class=\"{class}\" d=\"M{x} 68H{to}\"/>"));
            self.text(to + 6.0, 72.0, "", "start", name);
            x += 80.0;
        }
        self.put(format_args!("<circle class=\"max\" cx=\"{x}\" cy=\"68\" r=\"2.5\"/>"));
        self.text(x + 10.0, 72.0, "", "start", "slowest");
        self.text(LEFT, 72.0, "soft", "start", "from the moment a message was due to its receiver, log scale");
    }

    fn axes(&mut self, bottom: f64) {
        for power in self.range.0..=self.range.1 {
            let millis = 10_f64.powi(power);
            let y = self.y(millis);
            self.line((LEFT, y), (WIDTH - RIGHT, y));
            self.text(LEFT - 8.0, y + 4.0, "num", "end", &span(millis));
        }
        let tick = time_tick(self.seconds);
        let mut at = 0.0;
        while at <= self.seconds {
            let x = self.x(at);
            self.line((x, TOP), (x, bottom));
            self.text(x, bottom + 16.0, "num", "middle", &clock(at, tick));
            at += tick;
        }
        let unit = if tick < 60.0 { "seconds since the run began" } else { "minutes since the run began" };
        self.text(LEFT + (WIDTH - LEFT - RIGHT) / 2.0, bottom + 34.0, "soft", "middle", unit);
        let middle = TOP + PANEL / 2.0;
        self.put(format_args!(
            "<text class=\"soft\" text-anchor=\"middle\" transform=\"translate(22 {middle}) rotate(-90)\">\
             latency</text>"
        ));
    }

    fn latencies(&mut self, points: &[Point]) {
        // A step in which nothing was due is a gap in the lines.
        for run in points.split(|point| point.messages == 0).filter(|run| !run.is_empty()) {
            let half = self.step / 2.0;
            let middle = move |point: &Point| point.at + half;
            let path = |value: &dyn Fn(&Point) -> f64, points: &mut dyn Iterator<Item = &Point>| {
                let corners: Vec<String> =
                    points.map(|point| format!("{:.1} {:.1}", self.x(middle(point)), self.y(value(point)))).collect();
                corners.join("L")
            };
            let mid = path(&|point| point.p50, &mut run.iter());
            let tail = path(&|point| point.p99, &mut run.iter());
            let back = path(&|point| point.p50, &mut run.iter().rev());
            self.put(format_args!("<path class=\"band\" d=\"M{tail}L{back}Z\"/>"));
            self.put(format_args!("<path class=\"tail\" d=\"M{tail}\"/><path class=\"mid\" d=\"M{mid}\"/>"));
            for point in run {
                let (x, y) = (self.x(middle(point)), self.y(point.max));
                self.put(format_args!("<circle class=\"max\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.6\"/>"));
            }
        }
    }

    fn marks(&mut self, lanes: &[&str], marks: &[Mark]) {
        for (n, lane) in lanes.iter().enumerate() {
            let y = self.lanes_top + n as f64 * LANE;
            self.text(LEFT - 8.0, y + 11.0, "soft", "end", lane);
            for mark in marks.iter().filter(|mark| mark.lane == *lane) {
                let (x, width) = (self.x(mark.from), (self.x(mark.to) - self.x(mark.from)).max(2.0));
                let top = y + 3.0;
                self.put(format_args!(
                    "<rect class=\"fault\" x=\"{x:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"10\" rx=\"1\"/>"
                ));
            }
        }
    }

    fn rates(&mut self, points: &[Point], top: f64) {
        let rates: Vec<f64> = points.iter().map(|point| point.messages as f64 / self.step).collect();
        let most = rates.iter().copied().fold(1.0, f64::max);
        for (point, rate) in points.iter().zip(rates) {
            let (x, width) = (self.x(point.at), self.x(point.at + self.step) - self.x(point.at));
            let (y, height) = (top + RATE * (1.0 - rate / most), RATE * rate / most);
            let width = if width > 4.0 { width - 1.0 } else { width };
            self.put(format_args!(
                "<rect class=\"bar\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\"/>"
            ));
        }
        self.line((LEFT, top + RATE), (WIDTH - RIGHT, top + RATE));
        self.text(LEFT - 8.0, top + 10.0, "num", "end", &format!("{most:.0}"));
        self.text(LEFT - 8.0, top + RATE, "num", "end", "0");
        self.text(LEFT - 8.0, top + RATE / 2.0 + 4.0, "soft", "end", "messages/s");
    }

    fn table(&mut self, outcome: &Outcome, top: f64) {
        let column = |n: usize| LEFT + 150.0 + n as f64 * 130.0;
        for (n, head) in ["p50", "p90", "p99", "p99.9", "max"].iter().enumerate() {
            self.text(column(n), top, "soft", "end", head);
        }
        let rows = [("delivery", &outcome.report.delivery), ("answer to the sender", &outcome.report.answer)];
        for (n, (name, latency)) in rows.iter().enumerate() {
            let y = top + 22.0 + n as f64 * 20.0;
            self.text(LEFT + 30.0, y, "", "end", name);
            let Latency { p50, p90, p99, p999, max } = latency;
            for (n, millis) in [p50, p90, p99, p999, max].into_iter().enumerate() {
                self.text(column(n), y, "num", "end", &span(*millis));
            }
        }
    }
}

/// The names of all lanes, in the order in which they are first needed.
fn lanes(marks: &[Mark]) -> Vec<&str> {
    let mut lanes: Vec<&str> = Vec::new();
    for mark in marks {
        if !lanes.contains(&mark.lane.as_str()) {
            lanes.push(&mark.lane);
        }
    }
    lanes
}

/// The decades that hold all latencies.
fn range(points: &[Point]) -> (i32, i32) {
    let there = || points.iter().filter(|point| point.messages > 0);
    let low = there().map(|point| point.p50).fold(f64::INFINITY, f64::min);
    let high = there().map(|point| point.max).fold(0.0, f64::max);
    if low.is_infinite() {
        return (0, 3);
    }
    let low = low.log10().floor() as i32;
    (low, (high.log10().ceil() as i32).max(low + 1))
}

/// A time as people write it.
fn span(millis: f64) -> String {
    match millis {
        ms if ms >= 9_999.5 => format!("{:.0} s", ms / 1e3),
        ms if ms >= 999.5 => format!("{} s", (ms / 100.0).round() / 10.0),
        ms if ms >= 9.95 => format!("{ms:.0} ms"),
        ms => format!("{} ms", (ms * 100.0).round() / 100.0),
    }
}

/// Seconds between two lines on the axis of time.
fn time_tick(seconds: f64) -> f64 {
    let ticks = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 7_200.0, 21_600.0, 86_400.0];
    ticks.into_iter().find(|tick| seconds / tick <= TIME_TICKS).unwrap_or(seconds / TIME_TICKS)
}

fn clock(at: f64, tick: f64) -> String {
    if tick < 60.0 { format!("{at:.0}") } else { format!("{:.0}", at / 60.0) }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::load::{oracle::Report, timeline::Timeline};

    fn outcome(latencies: &[(u64, u64)]) -> Outcome {
        let mut timeline = Timeline::new(Instant::now());
        for (second, millis) in latencies {
            timeline.record(timeline.began + Duration::from_secs(*second), Duration::from_millis(*millis));
        }
        Outcome { clean: true, report: Report::default(), timeline }
    }

    #[test]
    fn what_takes_longer_is_higher_and_what_is_later_is_further_right() {
        let canvas = Canvas { svg: String::new(), seconds: 10.0, step: 1.0, range: (0, 4), lanes_top: TOP + PANEL };
        assert!(canvas.y(1_000.0) < canvas.y(10.0) && canvas.x(9.0) > canvas.x(1.0));
        assert_eq!((canvas.y(0.0), canvas.y(1e9)), (TOP + PANEL, TOP));
    }

    #[test]
    fn a_picture_has_a_line_for_each_stretch_and_a_lane_for_each_kind_of_fault() {
        let mark = |lane: &str| Mark { lane: lane.to_owned(), from: 1.0, to: 2.0 };
        let svg = draw(&outcome(&[(0, 3), (1, 3_000), (5, 3)]), "a < b", &[mark("kill"), mark("kill"), mark("freeze")]);
        assert_eq!((svg.matches("<path class=\"band\"").count(), svg.matches("class=\"fault\"").count()), (2, 3));
        assert_eq!((svg.matches(">kill<").count(), svg.matches(">freeze<").count()), (1, 1));
        assert!(svg.contains("a &lt; b") && svg.contains("10 s") && !svg.contains("NaN"));
    }

    #[test]
    fn a_run_without_messages_can_be_drawn() {
        let svg = draw(&outcome(&[]), "nothing", &[]);
        assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn times_are_written_with_few_digits() {
        for (millis, text) in [(0.512, "0.51 ms"), (2.0, "2 ms"), (64.4, "64 ms"), (1_450.0, "1.5 s"), (1e4, "10 s")] {
            assert_eq!(span(millis), text);
        }
    }
}
