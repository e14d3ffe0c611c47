"""Warp kernel that casts rays against a triangle mesh; `bvh` is the reference implementation."""

import warp as wp


@wp.kernel
def first_hits(
    offset: int,
    mesh: wp.uint64,
    origins: wp.array(dtype=wp.vec3),
    directions: wp.array(dtype=wp.vec3),
    face: wp.array(dtype=int),
    hits: wp.array(dtype=wp.vec3),
):
    """Finds the first intersection of each ray with the mesh.

    Args:
        offset: index of the first ray.
        mesh: id of a `wp.Mesh`.
        origins: (R,) origins of the rays.
        directions: (R,) unit directions.
        face: (R,) output: index of the face, -1 for a miss.
        hits: (R,) output: distance and barycentric weights of the face's first two corners.
    """
    ray = offset + wp.tid()
    query = wp.mesh_query_ray(mesh, origins[ray], directions[ray], 1.0e38)
    if query.result:
        face[ray] = query.face
        hits[ray] = wp.vec3(query.t, query.u, query.v)
    else:
        face[ray] = -1
