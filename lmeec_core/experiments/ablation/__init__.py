"""The paper's ablations with the small network, on simulated takes (`lmeec ablate`)."""
