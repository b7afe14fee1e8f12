//! Drawing what was measured: use and level of a guest's memory over time.

use std::fmt::Write;

/// What was seen at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Seconds since the beginning.
    pub at: f64,
    /// Bytes in use.
    pub used: u64,
    /// Bytes up to which it is not held back.
    pub level: u64,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
/// Room for numbers left and below, and for words above.
const LEFT: f64 = 52.0;
const BELOW: f64 = 28.0;
const ABOVE: f64 = 30.0;

/// A picture of them below a ceiling of so many bytes.
pub fn svg(points: &[Point], ceiling: u64) -> String {
    let end = points.last().map_or(1.0, |point| point.at.max(1.0));
    let top = ceiling as f64 * 1.05;
    let x = |at: f64| LEFT + (WIDTH - LEFT - 12.0) * at / end;
    let y = |bytes: f64| ABOVE + (HEIGHT - ABOVE - BELOW) * (1.0 - bytes / top);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"11\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#fff\"/>\n"
    );
    // Writing to a text does not fail.
    let mut put = |line: String| writeln!(text, "{line}").expect("a text grows");
    for mib in (0..=ceiling >> 20).step_by(100) {
        let at = y((mib << 20) as f64);
        put(format!("<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"#ddd\"/>", WIDTH - 12.0));
        put(format!("<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{mib} MiB</text>", LEFT - 5.0, at + 4.0));
    }
    for second in (0..=end as u32).step_by(if end > 20.0 { 5 } else { 1 }) {
        let at = x(f64::from(second));
        put(format!("<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{second} s</text>", HEIGHT - 10.0));
    }
    put(format!(
        "<path d=\"M{LEFT} {:.1}H{:.1}\" stroke=\"#c33\" stroke-dasharray=\"5 4\"/>",
        y(ceiling as f64),
        WIDTH - 12.0
    ));
    let line = |of: &dyn Fn(&Point) -> u64, steps: bool| {
        let mut path = String::new();
        for (n, point) in points.iter().enumerate() {
            let (at, bytes) = (x(point.at), y(of(point) as f64));
            let how = if n == 0 {
                format!("M{at:.1} {bytes:.1}")
            } else if steps {
                format!("H{at:.1}V{bytes:.1}")
            } else {
                format!("L{at:.1} {bytes:.1}")
            };
            path.push_str(&how);
        }
        path
    };
    put(format!(
        "<path d=\"{}\" fill=\"none\" stroke=\"#27c\" stroke-width=\"1.6\"/>",
        line(&|point| point.level, true)
    ));
    put(format!(
        "<path d=\"{}\" fill=\"none\" stroke=\"#292\" stroke-width=\"1.6\"/>",
        line(&|point| point.used, false)
    ));
    for (n, (colour, words)) in [("#292", "in use"), ("#27c", "level"), ("#c33", "hard limit")].into_iter().enumerate()
    {
        let at = LEFT + 10.0 + 110.0 * n as f64;
        put(format!("<path d=\"M{at:.1} 15h24\" stroke=\"{colour}\" stroke-width=\"2\"/>"));
        put(format!("<text x=\"{:.1}\" y=\"19\">{words}</text>", at + 30.0));
    }
    text.push_str("</svg>\n");
    text
}
