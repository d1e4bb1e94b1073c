"""python -m cosim.networks.workloads: write the workload file of every network that ships."""

from cosim.networks.workloads.extracted import write_workloads

for path in write_workloads():
    print(path)
