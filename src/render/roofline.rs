//! A roofline picture: how many multiply–accumulates a second the machine can do at most, by how many there are for each
//! byte that is read. Where a slope reaches a roof, code stops being bound by memory.
//!
//! The picture brings its colours for light and for dark pages, and names of machines are made harmless.

use std::fmt::Write;

use super::svg_text;

const WIDTH: f64 = 820.0;
const HEIGHT: f64 = 520.0;
/// Left, top, right, bottom.
const MARGINS: [f64; 4] = [64.0, 64.0, 24.0, 76.0];

/// Multiply–accumulates for each byte, from and to.
const INTENSITY: (f64, f64) = (0.125, 2048.0);

const STYLE: &str = "\
:root{--page:#fcfcfb;--ink:#20262e;--faint:#d9dde2;--soft:#5b6570;--a:#0b63b5;--b:#b4460f;--c:#6d3fb0;--m:#1d7a46}\
@media(prefers-color-scheme:dark){:root{--page:#14181d;--ink:#e6e9ed;--faint:#323a43;--soft:#9aa5b1;\
--a:#6cb2f7;--b:#f39b66;--c:#bd9df2;--m:#67c992}}\
svg{background:var(--page)}text{font:13px system-ui,sans-serif;fill:var(--ink);\
paint-order:stroke;stroke:var(--page);stroke-width:4px;stroke-linejoin:round}\
.t{font-size:17px;font-weight:600}.s{fill:var(--soft);font-size:12px}\
.g{stroke:var(--faint);stroke-width:1}.d{stroke:var(--m);stroke-width:1.2;stroke-dasharray:3 4}.dt{fill:var(--m);font-size:12px}\
.l{fill:none;stroke-width:2.2}.r0{stroke:var(--b)}.r1{stroke:var(--c)}.r2{stroke:var(--a)}\
.w{stroke:var(--ink)}.v{stroke:var(--soft);stroke-width:1.2}\
.f0{fill:var(--b)}.f1{fill:var(--c)}.f2{fill:var(--a)}";

/// A bandwidth: under it, rates rise with the intensity.
#[derive(Clone, Debug, PartialEq)]
pub struct Slope {
    /// Where the bytes come from.
    pub label: String,
    /// 10⁹ bytes a second.
    pub gbs: f64,
}

/// A peak: rates that no intensity exceeds.
#[derive(Clone, Debug, PartialEq)]
pub struct Roof {
    /// Element type and instructions.
    pub label: String,
    /// 10⁹ multiply–accumulates a second.
    pub gmacs: f64,
}

/// What work of interest needs.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The work.
    pub label: String,
    /// Its intensity.
    pub macs_per_byte: f64,
}

/// What there is to draw.
#[derive(Clone, Debug, PartialEq)]
pub struct Roofline {
    /// The machine.
    pub title: String,
    /// How it was measured.
    pub subtitle: String,
    /// Bandwidths, the nearest to the core first; the last is memory.
    pub slopes: Vec<Slope>,
    /// Peaks.
    pub roofs: Vec<Roof>,
    /// Work.
    pub marks: Vec<Mark>,
}

impl Roofline {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut out = String::new();
        let plot = Plot::over(self);
        let _ = writeln!(
            out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" width=\"{WIDTH}\" \
             height=\"{HEIGHT}\" role=\"img\" aria-label=\"roofline of {}\">\n<style>{STYLE}</style>\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"var(--page)\"/>",
            svg_text(&self.title)
        );
        text(&mut out, "t", MARGINS[0], 26.0, "start", &self.title);
        text(&mut out, "s", MARGINS[0], 46.0, "start", &self.subtitle);
        plot.grid(&mut out);
        for mark in &self.marks {
            plot.mark(&mut out, mark);
        }
        let best = self.roofs.iter().map(|roof| roof.gmacs).fold(0.0, f64::max);
        for (at, slope) in self.slopes.iter().enumerate() {
            // Caches may be equally fast: the names of lines that lie on each other follow each other.
            let memory = at + 1 == self.slopes.len();
            let place = if memory { 0.0 } else { at as f64 * 80.0 };
            plot.slope(&mut out, slope, best, (place, memory));
        }
        let fastest = self
            .slopes
            .iter()
            .map(|slope| slope.gbs)
            .fold(0.0, f64::max);
        for (at, roof) in self.roofs.iter().enumerate() {
            plot.roof(&mut out, roof, fastest, at % 3);
        }
        out + "</svg>\n"
    }
}

/// Where figures lie on the page.
struct Plot {
    /// Powers of ten of the rates, from and to.
    decades: (i32, i32),
}

impl Plot {
    fn over(roofline: &Roofline) -> Self {
        let rates = roofline.roofs.iter().map(|roof| roof.gmacs);
        let highest = rates.fold(10.0, f64::max);
        let slopes = roofline.slopes.iter().map(|slope| slope.gbs * INTENSITY.0);
        let lowest = slopes
            .filter(|rate| *rate > 0.0)
            .fold(highest / 10.0, f64::min);
        let decades = (
            lowest.log10().floor() as i32,
            (1.3 * highest).log10().ceil() as i32,
        );
        Self {
            decades: (decades.0, decades.1.max(decades.0 + 1)),
        }
    }

    fn x(&self, intensity: f64) -> f64 {
        let part = (intensity / INTENSITY.0).log2() / (INTENSITY.1 / INTENSITY.0).log2();
        MARGINS[0] + part * (WIDTH - MARGINS[0] - MARGINS[2])
    }

    fn y(&self, gmacs: f64) -> f64 {
        let (low, high) = (f64::from(self.decades.0), f64::from(self.decades.1));
        let part = (gmacs.log10() - low) / (high - low);
        HEIGHT - MARGINS[3] - part * (HEIGHT - MARGINS[1] - MARGINS[3])
    }

    fn top(&self) -> f64 {
        MARGINS[1]
    }

    fn bottom(&self) -> f64 {
        HEIGHT - MARGINS[3]
    }

    fn grid(&self, out: &mut String) {
        let (left, right) = (self.x(INTENSITY.0), self.x(INTENSITY.1));
        for decade in self.decades.0..=self.decades.1 {
            let gmacs = 10_f64.powi(decade);
            let y = self.y(gmacs);
            line(out, "g", (left, y), (right, y));
            text(out, "s", left - 8.0, y + 4.0, "end", &number(gmacs));
        }
        let mut intensity = INTENSITY.0;
        while intensity <= INTENSITY.1 {
            let x = self.x(intensity);
            line(out, "g", (x, self.top()), (x, self.bottom()));
            text(
                out,
                "s",
                x,
                self.bottom() + 18.0,
                "middle",
                &number(intensity),
            );
            intensity *= 4.0;
        }
        let middle = (left + right) / 2.0;
        let under = "multiply–accumulates for each byte read";
        text(out, "", middle, HEIGHT - 14.0, "middle", under);
        text(out, "s", 14.0, self.top() - 8.0, "start", "GMAC/s");
    }

    /// A broken line from the top to the axis, and under the axis what it stands for.
    fn mark(&self, out: &mut String, mark: &Mark) {
        let x = self.x(mark.macs_per_byte);
        line(out, "d", (x, self.top()), (x, self.bottom()));
        let y = self.bottom() + 38.0;
        // Bytes and half-words lie a factor of two apart: their names go to either side.
        let left = mark.label.starts_with("bf16");
        let (anchor, x) = if left {
            ("end", x + 14.0)
        } else {
            ("start", x - 8.0)
        };
        text(out, "dt", x, y, anchor, &mark.label);
    }

    /// The name stands `place` pixels along the line.
    fn slope(&self, out: &mut String, slope: &Slope, best: f64, (place, memory): (f64, bool)) {
        if slope.gbs <= 0.0 || best <= 0.0 {
            return;
        }
        let start = (self.x(INTENSITY.0), self.y(slope.gbs * INTENSITY.0));
        let ridge = (best / slope.gbs).clamp(INTENSITY.0, INTENSITY.1);
        let end = (self.x(ridge), self.y(slope.gbs * ridge));
        line(out, if memory { "l w" } else { "l v" }, start, end);
        let angle = (end.1 - start.1).atan2(end.0 - start.0);
        let at = (
            start.0 + 10.0 + place * angle.cos(),
            start.1 - 10.0 + place * angle.sin(),
        );
        let _ = writeln!(
            out,
            "<text class=\"s\" transform=\"translate({:.1} {:.1}) rotate({angle:.1})\">{} {} GB/s</text>",
            at.0,
            at.1,
            svg_text(&slope.label),
            number(slope.gbs),
            angle = angle.to_degrees(),
        );
    }

    fn roof(&self, out: &mut String, roof: &Roof, fastest: f64, colour: usize) {
        if roof.gmacs <= 0.0 || fastest <= 0.0 {
            return;
        }
        let y = self.y(roof.gmacs);
        let ridge = (roof.gmacs / fastest).clamp(INTENSITY.0, INTENSITY.1);
        let right = self.x(INTENSITY.1);
        line(out, &format!("l r{colour}"), (self.x(ridge), y), (right, y));
        let label = format!("{} {} GMAC/s", roof.label, number(roof.gmacs));
        text(
            out,
            &format!("f{colour}"),
            right - 4.0,
            y - 6.0,
            "end",
            &label,
        );
    }
}

fn line(out: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{}</text>",
        svg_text(text)
    );
}

/// Three digits, without zeros behind the point.
fn number(value: f64) -> String {
    let decimals = match value {
        value if value < 10.0 => 3,
        value if value < 100.0 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    if text.contains('.') {
        let text = text.trim_end_matches('0');
        text.trim_end_matches('.').to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roofline() -> Roofline {
        Roofline {
            title: "A <fast> \"CPU\" & more".to_owned(),
            subtitle: "measured today".to_owned(),
            slopes: vec![
                Slope {
                    label: "L1".to_owned(),
                    gbs: 200.0,
                },
                Slope {
                    label: "DRAM".to_owned(),
                    gbs: 20.0,
                },
            ],
            roofs: vec![Roof {
                label: "int8".to_owned(),
                gmacs: 100.0,
            }],
            marks: vec![Mark {
                label: "Q8_0 decode".to_owned(),
                macs_per_byte: 1.0,
            }],
        }
    }

    #[test]
    fn names_are_harmless() {
        let svg = roofline().svg();
        assert!(svg.contains("A &lt;fast&gt; &quot;CPU&quot; &amp; more"));
        assert!(!svg.contains("<fast>"));
        assert!(svg.contains("prefers-color-scheme:dark"));
    }

    #[test]
    fn slopes_end_where_they_meet_the_roof() {
        let plot = Plot::over(&roofline());
        assert_eq!(plot.decades, (0, 3));
        let svg = roofline().svg();
        // 100 GMAC/s at 20 GB/s are reached with 5 for each byte.
        let ridge = format!("x2=\"{:.1}\" y2=\"{:.1}\"", plot.x(5.0), plot.y(100.0));
        assert!(svg.contains(&ridge), "{svg}");
    }

    #[test]
    fn nothing_measured_is_an_empty_plot() {
        let empty = Roofline {
            title: String::new(),
            subtitle: String::new(),
            slopes: vec![Slope {
                label: "DRAM".to_owned(),
                gbs: 0.0,
            }],
            roofs: Vec::new(),
            marks: Vec::new(),
        };
        let svg = empty.svg();
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [0.125, 8.0, 12.34, 99.96, 512.4].map(number),
            ["0.125", "8", "12.3", "100", "512"]
        );
    }
}
