"""The paper's ablations at the size of the small network, on simulated takes (`lmeec ablate`)."""
