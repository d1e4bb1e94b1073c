"""Run by SCALE-Sim's own Python: CONFIG TOPOLOGY LAYOUT OUT -> its reports below OUT, no traces."""

import sys

from scalesim.scale_sim import scalesim  # type: ignore[import-not-found]  # lives in an environment of its own

config, topology, layout, out = sys.argv[1:]
simulator = scalesim(save_disk_space=True, verbose=False, config=config, topology=topology, layout=layout)
simulator.run_scale(top_path=out)
