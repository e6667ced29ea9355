"""Parameters of the node: the table, parameter files, and the resulting configuration."""

from lmeec_ros.parameters.config import ParameterError as ParameterError
from lmeec_ros.parameters.config import declare as declare
from lmeec_ros.parameters.config import flatten as flatten
from lmeec_ros.parameters.config import load as load
from lmeec_ros.parameters.config import read_file as read_file
