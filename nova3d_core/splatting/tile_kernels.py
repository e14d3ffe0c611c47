"""Warp kernels for the CPU that composite splats tile by tile; `torch_impl` is the reference.

A thread handles a tile of 8 x 8 pixels, a row of 8 at once: the compiler turns its vector type into
SIMD instructions, which makes the kernels five times faster than pixel by pixel. Each pair of a
splat and a tile has its own slot of gradients, so nothing is added atomically and results do not
depend on the number of threads. The same source compiles for x86 and ARM.
"""

import warp as wp

TILE_PX = 8
"""Side of a tile: as many pixels as the vectors of the kernels have lanes."""
GRADIENT_SIZE = 10
"""Gradients of a pair: 2 mean, 3 conic, 1 opacity, 4 channels."""


@wp.struct
class Tiles:
    """Splats of an image, sorted by tile and depth; a pair is a splat in a tile it touches."""

    starts: wp.array(dtype=int)
    splats: wp.array(dtype=int)
    means: wp.array(dtype=wp.vec2)
    conics: wp.array(dtype=wp.vec3)
    extents: wp.array(dtype=wp.vec2)
    opacities: wp.array(dtype=float)
    channels: wp.array(dtype=wp.vec4)
    columns: int
    width: int
    height: int
    min_alpha: float
    max_alpha: float
    min_transmittance: float


@wp.struct
class Composite:
    """Result of compositing, by pixel."""

    channels: wp.array(dtype=wp.vec4)
    transmittance: wp.array(dtype=float)
    last: wp.array(dtype=int)


@wp.struct
class Gradients:
    """Gradients of a loss by the result, and by each pair in the order of `slots`."""

    channels: wp.array(dtype=wp.vec4)
    transmittance: wp.array(dtype=float)
    slots: wp.array(dtype=int)
    pairs: wp.array2d(dtype=float)


_SIMD = """
    typedef float floats __attribute__((ext_vector_type(8), aligned(4)));
    typedef int ints __attribute__((ext_vector_type(8), aligned(4)));
    const floats lanes = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, 7.5f};
    auto select = [](ints mask, floats a, floats b) {
        return (floats)((mask & (ints)a) | (~mask & (ints)b));
    };
    auto any = [](ints mask) {
        const auto a = mask.lo | mask.hi;
        const auto b = a.lo | a.hi;
        return (b.x | b.y) != 0;
    };
    auto sum = [](floats v) {
        const auto a = v.lo + v.hi;
        const auto b = a.lo + a.hi;
        return b.x + b.y;
    };
    auto exponential = [](floats x) {  // for -80 < x <= 0, relative error below 2e-7
        const floats t = x * 1.44269504f;
        const ints n = __builtin_convertvector(t - 0.5f, ints);  // nearest, as t <= 0
        const floats r = (t - __builtin_convertvector(n, floats)) * 0.693147181f;
        floats p = r * (1.0f / 5040.0f) + (1.0f / 720.0f);
        p = p * r + (1.0f / 120.0f);
        p = p * r + (1.0f / 24.0f);
        p = p * r + (1.0f / 6.0f);
        p = p * r + 0.5f;
        p = p * r + 1.0f;
        p = p * r + 1.0f;
        return p * (floats)((n + 127) << 23);
    };
    const int x0 = (tile % tiles.columns) * 8, y0 = (tile / tiles.columns) * 8;
    const int rows = wp::min(8, tiles.height - y0), columns = wp::min(8, tiles.width - x0);
    const int* splats = tiles.splats.data;
    const int first = tiles.starts.data[tile], end = tiles.starts.data[tile + 1];
"""
"""Vector type, helper functions and the tile's bounds, of both kernels."""

_PAIR = """
        const int splat = splats[pair];
        const auto mean = tiles.means.data[splat];
        const auto conic = tiles.conics.data[splat];
        const auto extent = tiles.extents.data[splat];
        const float opacity = tiles.opacities.data[splat];
        // no pixel beyond this power reaches the minimum alpha; exact test below
        const float limit = ::logf(opacity / tiles.min_alpha) + 1e-3f;
        const int top = wp::max(0, (int)::floorf(mean[1] - extent[1] - 0.5f) - y0);
        const int bottom = wp::min(rows, (int)::ceilf(mean[1] + extent[1] + 0.5f) - y0);
        const floats dx = mean[0] - (lanes + (float)x0);
        const floats along = 0.5f * conic[0] * dx * dx;
"""
"""A pair's splat, the rows of the tile it touches, and its terms along x."""

_POWER = """
            const float dy = mean[1] - ((float)(y0 + row) + 0.5f);
            const floats power = along + (conic[1] * dy) * dx + 0.5f * conic[2] * dy * dy;
            ints hit = (power <= limit) & (power >= 0.0f);
            if (!any(hit)) continue;
            const floats falloff = exponential(-select(hit, power, floats(0.0f)));
            const floats uncapped = opacity * falloff;
            const floats alpha = __builtin_elementwise_min(uncapped, floats(tiles.max_alpha));
            hit &= alpha >= tiles.min_alpha;
"""
"""Alpha of a pair in a row of pixels, and the lanes where it counts."""

_COMPOSITE = (
    _SIMD
    + """
    floats total[8][4] = {}, transmittance[8];
    ints last[8], open[8];
    for (int row = 0; row < 8; ++row) {
        transmittance[row] = floats(1.0f);
        last[row] = ints(first);
        open[row] = ints(row < rows ? -1 : 0);
    }
    for (int pair = first; pair < end; ++pair) {
"""
    + _PAIR
    + """
        const auto channels = tiles.channels.data[splat];
        for (int row = top; row < bottom; ++row) {
"""
    + _POWER
    + """
            hit &= open[row];
            const floats after = transmittance[row] * (1.0f - alpha);
            const ints full = hit & (after < tiles.min_transmittance);
            open[row] &= ~full;
            hit &= ~full;
            const floats weight = select(hit, alpha * transmittance[row], floats(0.0f));
            for (int c = 0; c < 4; ++c) total[row][c] += weight * channels[c];
            transmittance[row] = select(hit, after, transmittance[row]);
            last[row] = (hit & (pair + 1)) | (~hit & last[row]);
        }
        if ((pair & 15) == 15) {
            ints some = open[0];
            for (int row = 1; row < 8; ++row) some |= open[row];
            if (!any(some)) break;
        }
    }
    for (int row = 0; row < rows; ++row)
        for (int x = 0; x < columns; ++x) {
            const int index = (y0 + row) * tiles.width + x0 + x;
            for (int c = 0; c < 4; ++c) result.channels.data[index][c] = total[row][c][x];
            result.transmittance.data[index] = transmittance[row][x];
            result.last.data[index] = last[row][x];
        }
"""
)

_DIFFERENTIATE = (
    _SIMD
    + """
    floats gradient[8][4] = {}, transmittance[8], behind[8];
    ints last[8];
    int stop = first;
    for (int row = 0; row < 8; ++row) {
        transmittance[row] = floats(1.0f);
        behind[row] = floats(0.0f);
        last[row] = ints(first);
        if (row >= rows) continue;
        for (int x = 0; x < columns; ++x) {
            const int index = (y0 + row) * tiles.width + x0 + x;
            for (int c = 0; c < 4; ++c) gradient[row][c][x] = grad.channels.data[index][c];
            const float t = result.transmittance.data[index];
            transmittance[row][x] = t;
            behind[row][x] = t * grad.transmittance.data[index];
            last[row][x] = result.last.data[index];
            stop = wp::max(stop, result.last.data[index]);
        }
    }
    for (int pair = stop - 1; pair >= first; --pair) {
"""
    + _PAIR
    + """
        const auto channels = tiles.channels.data[splat];
        floats by_channels[4] = {}, by_opacity = {};
        floats sx = {}, sy = {}, sxx = {}, sxy = {}, syy = {};
        for (int row = top; row < bottom; ++row) {
"""
    + _POWER
    + """
            hit &= last[row] > pair;
            if (!any(hit)) continue;
            const floats clear = 1.0f / (1.0f - alpha);
            const floats before = transmittance[row] * clear;
            const floats weight = select(hit, alpha * before, floats(0.0f));
            floats value = floats(0.0f);
            for (int c = 0; c < 4; ++c) {
                value += gradient[row][c] * channels[c];
                by_channels[c] += weight * gradient[row][c];
            }
            floats by_alpha = before * value - behind[row] * clear;
            by_alpha = select(hit & (uncapped < tiles.max_alpha), by_alpha, floats(0.0f));
            behind[row] += weight * value;
            transmittance[row] = select(hit, before, transmittance[row]);
            by_opacity += falloff * by_alpha;
            const floats by_power = -alpha * by_alpha;
            const floats by_x = by_power * dx;
            sx += by_x;
            sy += by_power * dy;
            sxx += by_x * dx;
            sxy += by_x * dy;
            syy += by_power * (dy * dy);
        }
        float* out = grad.pairs.data + 10 * (long long)grad.slots.data[pair];
        const float x = sum(sx), y = sum(sy);
        out[0] = conic[0] * x + conic[1] * y;
        out[1] = conic[1] * x + conic[2] * y;
        out[2] = 0.5f * sum(sxx);
        out[3] = sum(sxy);
        out[4] = 0.5f * sum(syy);
        out[5] = sum(by_opacity);
        for (int c = 0; c < 4; ++c) out[6 + c] = sum(by_channels[c]);
    }
"""
)
"""With weight w_i = alpha_i T_i and g_i = gradient . channels_i:
dL/dalpha_i = T_i g_i - (sum of w_j g_j behind i + T dL/dT) / (1 - alpha_i)."""


@wp.func_native(_COMPOSITE)
def composite_tile(tiles: Tiles, result: Composite, tile: int):
    """Composites the splats of a tile, front to back."""
    ...


@wp.func_native(_DIFFERENTIATE)
def differentiate_tile(tiles: Tiles, result: Composite, grad: Gradients, tile: int):
    """Writes the gradients of the pairs of a tile, back to front."""
    ...


@wp.func
def tile_range(mean: float, extent: float, count: int):
    """First tile and end of the tiles that an interval touches along one axis."""
    low = wp.clamp(wp.floor((mean - extent) / 8.0), 0.0, float(count))
    high = wp.clamp(wp.ceil((mean + extent) / 8.0), 0.0, float(count))
    return wp.vec2i(int(low), int(high))


@wp.kernel(enable_backward=False)
def count_pairs(
    tiles: Tiles, rows: int, splat_pairs: wp.array(dtype=int), tile_pairs: wp.array(dtype=int)
):
    """One thread: the pairs of each splat and of each tile; they are zero before."""
    for splat in range(tiles.means.shape[0]):
        extent = tiles.extents[splat]
        if extent[0] > 0.0:
            mean = tiles.means[splat]
            x = tile_range(mean[0], extent[0], tiles.columns)
            y = tile_range(mean[1], extent[1], rows)
            splat_pairs[splat] = wp.max(x[1] - x[0], 0) * wp.max(y[1] - y[0], 0)
            for row in range(y[0], y[1]):
                for column in range(x[0], x[1]):
                    tile = row * tiles.columns + column
                    tile_pairs[tile] = tile_pairs[tile] + 1


@wp.kernel(enable_backward=False)
def fill_tiles(
    tiles: Tiles,
    rows: int,
    order: wp.array(dtype=int),
    first_slots: wp.array(dtype=int),
    ends: wp.array(dtype=int),
    slots: wp.array(dtype=int),
):
    """One thread: the splats of each tile in their `order`, and the slots of the pairs.

    `ends` holds the start of each tile before, its end afterwards.
    """
    for index in range(order.shape[0]):
        splat = order[index]
        extent = tiles.extents[splat]
        if extent[0] > 0.0:
            mean = tiles.means[splat]
            x = tile_range(mean[0], extent[0], tiles.columns)
            y = tile_range(mean[1], extent[1], rows)
            slot = first_slots[splat]
            for row in range(y[0], y[1]):
                for column in range(x[0], x[1]):
                    tile = row * tiles.columns + column
                    pair = ends[tile]
                    tiles.splats[pair] = splat
                    slots[pair] = slot
                    ends[tile] = pair + 1
                    slot = slot + 1


@wp.kernel(enable_backward=False)
def sum_slots(
    offset: int,
    first_slots: wp.array(dtype=int),
    pairs: wp.array2d(dtype=float),
    result: wp.array2d(dtype=float),
):
    """One thread per splat: the sum of the gradients of its pairs."""
    splat = offset + wp.tid()
    for slot in range(first_slots[splat], first_slots[splat + 1]):
        for value in range(10):
            result[splat, value] = result[splat, value] + pairs[slot, value]


@wp.kernel(enable_backward=False)
def composite_tiles(offset: int, tiles: Tiles, result: Composite):
    """One thread per tile."""
    composite_tile(tiles, result, offset + wp.tid())


@wp.kernel(enable_backward=False)
def differentiate_tiles(offset: int, tiles: Tiles, result: Composite, grad: Gradients):
    """One thread per tile."""
    differentiate_tile(tiles, result, grad, offset + wp.tid())
